"""One process that trains job after job: as separate processes would, with the base model read once."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.engine.run import events, run, spec

from gpurent_engine import serve, sheet, training
from gpurent_engine.bases import Kept
from gpurent_engine.spec import TrainSpec

KINDS: dict[str, dict[str, object]] = {
    "plain": {"network_dim": 4, "seed": 5},
    "lokr": {"network_module": "lycoris.kohya", "network_args": ["algo=lokr"], "network_dim": 3, "seed": 6},
    "dropped": {
        "network_dim": 8, "seed": 7, "network_dropout": 0.2, "gradient_checkpointing": True,
        "network_train_unet_only": True, "optimizer_type": "AdamW", "gradient_accumulation_steps": 2,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Serving listens to signals, and the tests' process is not to."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


class Orders:
    """What a client writes."""

    def __init__(self, folder: Path, base: Path, pictures: Path) -> None:
        self.folder, self.base, self.pictures = folder / "orders", base, pictures
        self.jobs = folder / "jobs"
        self.folder.mkdir()
        self.count = 0

    def add(self, name: str, wanted: TrainSpec, **more: Any) -> Path:
        """One job; its folder."""
        folder = self.jobs / name
        folder.mkdir(parents=True)
        job = {
            "protocol": 1, "spec": wanted.to_dict(), "base_model": str(self.base), "data_dir": str(self.pictures),
            "out_dir": str(folder / "out"), "events": str(folder / "events.jsonl"), "stop_file": str(folder / "stop"),
            **more,
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job))
        self.count += 1
        (self.folder / f"{self.count}.json").write_text(json.dumps({"job": str(folder / "job.json")}))
        return folder

    def draw(self, name: str, within_s: float = 100.0) -> Path:
        """The grid of a job; its folder."""
        folder = self.jobs / f"{name}-grid"
        folder.mkdir(parents=True)
        rows = [{"text": text, "seed": 1, "negative": "", "label": text} for text in ("a disc", "a red disc")]
        order = {
            "job": str(self.jobs / name / "job.json"), "events": str(folder / "events.jsonl"),
            "lora": "disc.safetensors", "picture": "disc-grid.png", "rows": rows, "strengths": [0.5, 1.0], "steps": 2,
            "side": 64, "within_s": within_s,
        }  # fmt: skip
        (folder / "grid.json").write_text(json.dumps(order))
        self.count += 1
        (self.folder / f"{self.count}.json").write_text(json.dumps({"grid": str(folder / "grid.json")}))
        return folder


@pytest.fixture
def orders(tmp_path: Path, base_model: Path, pictures: Path) -> Orders:
    return Orders(tmp_path, base_model, pictures)


def test_jobs_of_one_process_end_in_what_processes_of_their_own_end_in_bit_for_bit(
    orders: Orders, base_model: Path, pictures: Path, tmp_path: Path
) -> None:
    """Another kind of network, rank and seed each, and the first kind once more after all that the others did."""
    kept = Kept()
    folders = {name: orders.add(name, spec(**keys)) for name, keys in KINDS.items()}
    folders["again"] = orders.add("again", spec(**KINDS["plain"]))
    assert serve.serve(orders.folder, 0.01, kept) == training.DONE
    for name, folder in folders.items():
        alone = tmp_path / "alone" / name
        if name != "again":
            run(spec(**KINDS[name]), base_model, pictures, alone)
        theirs = load_file(tmp_path / "alone" / name.replace("again", "plain") / "disc.safetensors")
        mine = load_file(folder / "out" / "disc.safetensors")
        assert mine.keys() == theirs.keys()
        assert all((mine[key] == theirs[key]).all() for key in theirs), name
        assert (folder / "status").read_text() == "0\n"
        assert events(folder / "events.jsonl")[-1]["event"] == "done"
    assert kept.again == len(folders) - 1


def test_the_grid_of_a_job_is_drawn_on_the_base_that_is_kept(
    orders: Orders, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """As large as the client expects it, and with another picture in each column; then the process takes jobs again."""
    kept = Kept()
    first = orders.add("first", spec(max_train_epochs=1))
    drawn = orders.draw("first")
    orders.add("second", spec(max_train_epochs=1))
    slow = orders.draw("second", within_s=0.001)
    assert serve.serve(orders.folder, 0.01, kept) == training.FAILED
    said = events(drawn / "events.jsonl")
    assert [one["event"] for one in said] == ["phase", *["drawing"] * 7, "grid"]
    assert [(one["done"], one["total"]) for one in said[1:-1]] == [(done, 6) for done in range(7)]
    path = first / "out" / said[-1]["path"]
    assert (said[-1]["path"], said[-1]["size"]) == ("disc-grid.png", path.stat().st_size)
    assert (drawn / "status").read_text() == "0\n" and kept.again == 3
    with Image.open(path) as found:
        assert found.size == sheet.size(rows=2, columns=3)
        left, top = sheet.MARGIN + sheet.LABEL, sheet.MARGIN + sheet.HEADER
        cells = [
            found.crop(
                (left + at * (sheet.CELL + sheet.GAP), top, left + at * (sheet.CELL + sheet.GAP) + 192, top + 192)
            )
            for at in range(3)
        ]
    assert len({one.tobytes() for one in cells}) == 3
    assert events(slow / "events.jsonl")[-1]["code"] == "slow", capfd.readouterr().err


def test_it_ends_after_a_job_that_failed_and_leaves_the_next_one_alone(orders: Orders, tmp_path: Path) -> None:
    """Its events say why, and its log; the client of the next one starts another process."""
    first = orders.add("first", spec(), data_dir=str(tmp_path / "nowhere"))
    second = orders.add("second", spec())
    assert serve.serve(orders.folder, 5.0) == training.REFUSED
    assert events(first / "events.jsonl")[-1]["event"] == "error"
    assert (first / "status").read_text() == "2\n"
    assert not (second / "events.jsonl").exists() and not (second / "status").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("[]", "absolute path"),
        ('{"job": "job.json"}', "absolute path"),
        ('{"job": "/nowhere/job.json"}', "No such file"),
        ("[" * 100_000, "too long"),
    ],
)
def test_an_order_that_is_none_ends_it_with_a_word(
    orders: Orders, text: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing of it is believed, and nobody waits for the next one."""
    (orders.folder / "1.json").write_text(text)
    assert serve.serve(orders.folder, 5.0) == training.REFUSED
    assert said in capfd.readouterr().err


def test_when_it_ends_for_want_of_orders_the_next_number_is_taken(orders: Orders) -> None:
    """So that a client that hands over an order at that moment finds out."""
    assert serve.serve(orders.folder, 0.01) == training.DONE
    assert (orders.folder / "1.json").read_bytes() == b""


def test_a_stop_file_ends_its_job_only(orders: Orders) -> None:
    """The next one is trained to its end."""
    first = orders.add("first", spec(max_train_epochs=50))
    second = orders.add("second", spec(max_train_epochs=1))
    (first / "stop").touch()
    assert serve.serve(orders.folder, 0.01) == training.DONE
    assert [(one / "status").read_text() for one in (first, second)] == ["4\n", "0\n"]


def test_a_base_model_that_changed_on_disk_is_read_again(base_model: Path, tmp_path: Path) -> None:
    """It is told by sizes and times, and by where it lies."""
    there = shutil.copytree(base_model, tmp_path / "base")
    kept = Kept()
    one = kept(str(there), False, "", torch.float32)
    two = kept(str(there), False, "", torch.float32)
    assert kept.again == 1 and one.parts.unet is not two.parts.unet
    weight = next(iter(one.parts.unet.parameters()))
    with torch.no_grad():
        weight.add_(1.0)
    assert not torch.equal(weight, next(iter(two.parts.unet.parameters())))
    config = there / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    kept(str(there), False, "", torch.float32)
    assert kept.again == 1


def test_an_order_that_comes_later_is_taken_by_the_process_that_waits(orders: Orders) -> None:
    """As a client writes it."""
    late = threading.Timer(0.3, lambda: orders.add("late", spec(max_train_epochs=1)))
    late.start()
    assert serve.serve(orders.folder, 2.0) == training.DONE
    assert (orders.jobs / "late" / "status").read_text() == "0\n"
