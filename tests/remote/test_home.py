"""What a host sends as a result: a LoRA of this job, or nothing at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
from gpurent.errors import BadHostData, HomeFull, TransferFailed
from gpurent.expected import Expected
from gpurent.jobs.events import Checkpoint
from gpurent.jobs.home import Home
from gpurent.model import Offer, Price
from gpurent.money import Usd
from gpurent.spi import Host

JOB = "job-1"
TAG = "gpurent-x-1"
EXPECTED = Expected("cat", steps=10, epochs=4, every_epochs=2, every_steps=4, file_bytes=10_000)


def lora(end: int = 4, name: str = "lora_unet_x.alpha") -> bytes:
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, end]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 4


@pytest.fixture
def home(host: Host, tmp_path: Path) -> Iterator[Home]:
    clock = SystemClock()
    ledger = Ledger.open(tmp_path / "ledger.db", clock)
    run_id = ledger.open_run("cat", Usd.parse("1"), output_dir=tmp_path / "out", config={})
    price = Price(Usd.parse("0.1"))
    ledger.append(
        run_id,
        Kind.INTENT,
        tag=TAG,
        provider="sandbox",
        offer=Offer("sandbox", "m01", "RTX 4090", 24_000, price),
        price=price,
        disk_gb=10,
        hourly_micros=1,
        reserved_micros=1,
        soft_deadline=0.0,
        hard_deadline=0.0,
    )
    ledger.append(run_id, Kind.CREATED, tag=TAG, ref="i-1", created_at=0.0)
    yield Home(
        host,
        f".gpurent/jobs/{JOB}",
        tmp_path / "out",
        tmp_path,
        run_id,
        TAG,
        JOB,
        ledger,
        clock,
        lambda _event: None,
        EXPECTED,
        lambda: None,
        hold_s=1.0,
    )
    ledger.close()


def announce(host: Host, name: str, data: bytes, step: int = 1) -> Checkpoint:
    host.run(f"mkdir -p .gpurent/jobs/{JOB}/out")
    host.put_bytes(data, f".gpurent/jobs/{JOB}/out/{name.rpartition('/')[2]}")
    final = name == EXPECTED.final
    return Checkpoint(
        event="checkpoint", path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data), step=step, final=final
    )


def visible(home: Home) -> list[Path]:
    return sorted(home.output_dir.iterdir()) if home.output_dir.exists() else []


@pytest.mark.parametrize(
    "name",
    [
        "cat.safetensors",
        "cat-000002.safetensors",
        "cat-000004.safetensors",
        "cat-step00000008.safetensors",
        "cat-step00000001.safetensors",
    ],
)
def test_a_lora_of_the_plan_comes_home(home: Home, host: Host, name: str) -> None:
    """The final file, those of epochs and steps, and that of a stop; each under its name, and in the ledger."""
    path = home.collect(announce(host, name, lora()))
    home.landing.clear()
    assert path is not None and path == home.output_dir / name and path.read_bytes() == lora()
    assert [one.path for one in home.ledger.run(home.run_id).artefacts] == [path]
    assert visible(home) == [path]


@pytest.mark.parametrize(
    "name",
    ["settings.toml", "dog.safetensors", "sub/cat.safetensors", "cat.safetensors.sh", "cat_v2.safetensors",
     "../cat.safetensors", "/etc/cat.safetensors", "Cat.safetensors", "cat-000003.safetensors", "cat.safetensors\n",
     "cat-step00000003.safetensors", "", ".", "cat-2.safetensors"],
)  # fmt: skip
def test_a_file_that_the_plan_does_not_foresee_is_not_fetched(home: Home, host: Host, name: str) -> None:
    """A host could otherwise write over whatever else lies in the output folder, such as another LoRA."""
    event = announce(host, "cat.safetensors", lora()).model_copy(update={"path": name, "final": False, "step": 1})
    with pytest.raises(BadHostData, match="does not write"):
        home.collect(event)
    assert not home.output_dir.exists()


@pytest.mark.parametrize(
    "lie", [{"step": 11}, {"final": False}, {"size": 10_001}, {"size": 2**40}], ids=["step", "final", "size", "huge"]
)
def test_a_file_that_contradicts_the_plan_is_not_fetched(home: Home, host: Host, lie: dict[str, object]) -> None:
    """Its size is known from the rank, its step from the configuration."""
    with pytest.raises(BadHostData):
        home.collect(announce(host, "cat.safetensors", lora()).model_copy(update=lie))
    assert not home.output_dir.exists()


def test_only_one_file_is_taken_for_that_of_a_stop(home: Home, host: Host) -> None:
    """A training stops once: a thousand such files would keep the machine alive."""
    assert home.collect(announce(host, "cat-step00000001.safetensors", lora(), 1))
    with pytest.raises(BadHostData, match="does not write"):
        home.collect(announce(host, "cat-step00000002.safetensors", lora(), 2))


def test_a_file_is_fetched_once_however_often_it_is_announced(home: Home, host: Host) -> None:
    """The same again is nothing new; another under the same name is a lie."""
    first = announce(host, "cat-000002.safetensors", lora())
    assert home.collect(first) is not None
    moved = home.traffic.bytes_out
    assert home.collect(first) is None and home.traffic.bytes_out == moved
    with pytest.raises(BadHostData, match="twice"):
        home.collect(announce(host, "cat-000002.safetensors", lora(name="lora_unet_y.alpha")))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80\x04pickle", lora(end=5), (2**60).to_bytes(8, "little") + b"{}", b"\x02" + b"\0" * 7 + b"[]", lora(-1)],
    ids=["empty", "pickle", "cut short", "endless header", "no object", "nowhere"],
)
def test_what_is_no_safetensors_file_does_not_stay(home: Home, host: Host, data: bytes) -> None:
    """Digest and length are the host's own words; the header is read here, and nothing is loaded."""
    with pytest.raises(BadHostData, match="not a LoRA"):
        home.collect(announce(host, "cat.safetensors", data))
    home.landing.clear()
    assert visible(home) == []


@pytest.mark.parametrize("lie", ["no lora", "digest", "size"])
def test_a_broken_file_does_not_cost_an_earlier_lora_of_that_name(home: Home, host: Host, lie: str) -> None:
    """Only what was verified takes the place of what was made before; no piece of the rest stays."""
    home.output_dir.mkdir()
    earlier = home.output_dir / "cat.safetensors"
    earlier.write_bytes(lora())
    promised = announce(host, "cat.safetensors", b"junk" if lie == "no lora" else lora(name="lora_unet_y.alpha"))
    if lie == "digest":
        promised = promised.model_copy(update={"sha256": "0" * 64})
    if lie == "size":
        promised = promised.model_copy(update={"size": promised.size + 1})
    with pytest.raises((TransferFailed, BadHostData)):
        home.collect(promised)
    home.landing.clear()
    assert earlier.read_bytes() == lora() and visible(home) == [earlier]


def test_a_verified_file_takes_the_place_of_an_earlier_one_at_once(home: Home, host: Host) -> None:
    """The command said so before it asked."""
    home.output_dir.mkdir()
    (home.output_dir / "cat.safetensors").write_bytes(b"earlier")
    path = home.collect(announce(host, "cat.safetensors", lora()))
    assert path is not None and path.read_bytes() == lora()


def test_what_cannot_be_given_its_name_is_waited_for(home: Home, host: Host) -> None:
    """It stays on the machine and in the landing folder; a folder of that name is in the way here."""
    (home.output_dir / "cat.safetensors" / "x").mkdir(parents=True)
    with pytest.raises(HomeFull):
        home.collect(announce(host, "cat.safetensors", lora()))


def test_the_log_keeps_how_it_began_and_how_it_ended(home: Home, host: Host) -> None:
    """What killed the engine is the last thing that it said."""
    told = "first line\n" + "x" * 5_000_000 + "\n\x1b[31mtorch.OutOfMemoryError: CUDA out of memory.\x1b[0m\n"
    host.run(f"mkdir -p .gpurent/jobs/{JOB}")
    host.put_bytes(told.encode(), f".gpurent/jobs/{JOB}/log.txt")
    home.keep_log()
    kept = (home.run_dir / "engine.log").read_text(encoding="utf-8")
    assert kept.startswith("first line\n") and kept.endswith("\ntorch.OutOfMemoryError: CUDA out of memory.\n")
    assert len(kept) < 300_000 and "left out" in kept


def test_a_short_log_is_kept_whole(home: Home, host: Host) -> None:
    """Nothing is marked as left out."""
    host.run(f"mkdir -p .gpurent/jobs/{JOB}")
    host.put_bytes(b"one\ntwo\n", f".gpurent/jobs/{JOB}/log.txt")
    home.keep_log()
    assert (home.run_dir / "engine.log").read_text(encoding="utf-8") == "one\ntwo\n"
