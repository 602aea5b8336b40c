"""Several LoRAs trained at once over one base: each is what it would be by itself."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.engine.run import Heard, events, run, spec
from tests.engine.test_main import write_job

from gpurent_engine import training
from gpurent_engine.__main__ import main
from gpurent_engine.data import DataError
from gpurent_engine.loop import Order, Result
from gpurent_engine.spec import TrainSpec
from gpurent_engine.together import Outcome, train_together


def packed(specs: dict[str, TrainSpec], base: Path, pictures: dict[str, Path], out: Path, step: str) -> list[Outcome]:
    with ExitStack() as stack:
        tasks = []
        for name, the_spec in specs.items():
            writer = Heard(out / name / "events.jsonl", lambda _event: None)
            order = Order(the_spec, str(base), pictures[name], out / name, step=step)
            tasks.append((order, stack.enter_context(writer)))
        return train_together(tasks, threading.Event())


def losses(path: Path) -> list[float]:
    return [one["loss"] for one in events(path / "events.jsonl") if one["event"] == "step"]


def off(mine: Path, theirs: Path) -> float:
    """How far two files are apart, relative to their size."""
    first, second = (load_file(one / "disc.safetensors") for one in (mine, theirs))
    assert first.keys() == second.keys()
    a, b = (torch.cat([one[key].flatten() for key in first]) for one in (first, second))
    return float((a - b).norm() / b.norm())


def test_each_lora_of_a_pack_is_what_it_would_be_by_itself(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Seeds, rates, curves, losses, validation and length of their own, batches of two sizes, one with gathered
    batches; what is learnt and reported is that of separate runs. A dataset that cannot be read fails alone."""
    common: dict[str, Any] = {"unet_lr": 1e-3, "train_batch_size": 2}
    specs = {
        "a": spec(**common, max_train_epochs=1),
        "b": spec(**{**common, "unet_lr": 2e-3}, seed=6, lr_scheduler="cosine", max_train_epochs=2, min_snr_gamma=5),
        "c": spec(**{**common, "train_batch_size": 3}, seed=7, max_train_epochs=1, validation_split=0.3),
        "d": spec(**common, seed=8, gradient_accumulation_steps=2, max_train_epochs=1),
        "missing": spec(**common),
    }
    places = dict.fromkeys(specs, pictures) | {"missing": tmp_path / "nowhere"}
    found = packed(specs, base_model, places, tmp_path / "packed", "merged")
    assert isinstance(found.pop(), DataError)
    for name, outcome in zip("abcd", found, strict=True):
        assert isinstance(outcome, Result), outcome
        alone = run(specs[name], base_model, pictures, tmp_path / name, step="merged")
        assert losses(tmp_path / "packed" / name) == pytest.approx(alone.losses, abs=1e-5)
        assert outcome.steps == alone.result.steps
        (stepper,) = [one for one in events(tmp_path / "packed" / name / "events.jsonl") if one["event"] == "stepper"]
        assert stepper["reason"] == "4 LoRAs at once."
        assert off(tmp_path / "packed" / name, tmp_path / name) < 1e-5
        said = [one for one in events(tmp_path / "packed" / name / "events.jsonl") if one["event"] == "validation"]
        assert [one["loss"] for one in said] == pytest.approx([one["loss"] for one in alone.of("validation")], abs=1e-5)


def test_what_cannot_share_a_step_is_trained_one_after_the_other(
    base_model: Path, pictures: Path, tmp_path: Path
) -> None:
    """Another rank: both are trained all the same, and told why that takes longer."""
    specs = {"a": spec(max_train_epochs=1), "b": spec(max_train_epochs=1, network_dim=2)}
    found = packed(specs, base_model, dict.fromkeys(specs, pictures), tmp_path, "merged")
    assert all(isinstance(one, Result) and one.steps == 3 for one in found)
    for name in specs:
        (said,) = [one for one in events(tmp_path / name / "events.jsonl") if one["event"] == "warning"]
        assert said["key"] == "pack" and "the same rank" in said["message"]


def test_an_order_that_is_wrong_does_not_hold_up_the_others(
    base_model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job of another protocol is refused by itself; two jobs with one folder are refused before anything is done."""
    jobs = []
    for name, changes in (("a", {}), ("b", {"protocol": 99})):
        (tmp_path / name).mkdir()
        jobs.append(write_job(tmp_path / name, base_model, pictures, step="merged", **changes))
    assert main(["train", "--pack", str(jobs[0]), str(jobs[0])]) == training.REFUSED
    assert "two trainings would write into one out_dir" in capsys.readouterr().err
    assert training.train_pack([training.read_order(job) for job in jobs], threading.Event()) == training.REFUSED
    assert events(tmp_path / "a" / "events.jsonl")[-1]["event"] == "done"
    assert events(tmp_path / "b" / "events.jsonl")[-1]["code"] == "spec"
