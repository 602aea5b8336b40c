"""The stub engine that drives tests of the broker says what this engine says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.engine.run import run, spec
from tests.engine.test_watching import WORSENS
from tests.stub import trial
from tests.stub.control import StubEngine
from tests.stub.engine import Orders
from tests.stub.trial import QUICK, job, train
from tests.thorough import often

from gpurent_engine import prompts


@pytest.fixture
def stub(tmp_path: Path) -> StubEngine:
    return StubEngine(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return trial.pictures(tmp_path / "data")


def course(said: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """What a stream tells of steps and files, and which fields its events have."""
    told = ("name", "step", "total", "epoch", "epochs", "path", "final", "images", "repeats_total", "batches_per_epoch",
            "total_steps", "start_step", "steps", "stopped", "files")  # fmt: skip
    kept = {one["step"] for one in said if one["event"] == "checkpoint"}
    return [
        (one["event"], *sorted(set(one) - {"v", "seq", "t"}), *(one.get(key) for key in told))
        for one in said
        if one["event"] != "hello"
        and (one["event"] != "step" or one["step"] in (1, one["total"]))
        # between checkpoints the real engine writes states whenever it is time for one
        and (one["event"] != "state" or one["step"] in kept)
    ]


COURSES: list[dict[str, Any]] = [
    {"max_train_epochs": 2},
    {"max_train_epochs": 3, "save_every_n_epochs": 1},
    {"max_train_epochs": None, "max_train_steps": 7, "save_every_n_steps": 2, "gradient_accumulation_steps": 2},
    {"max_train_epochs": None, "max_train_steps": 5, "save_every_n_epochs": 1, "train_batch_size": 3},
    {"max_train_epochs": 2, "validation_split": 0.4, "validate_every_n_steps": 3, "text_encoder_lr": 0.0},
    {"max_train_epochs": 2, "sample_prompts": "a --s 1\nb --s 1", "sample_every_n_epochs": 2,
     "sample_at_first": True},
    {"max_train_epochs": 2, "sample_prompts": "a --s 1\nb --s 1", "sample_every_n_steps": 2},
]  # fmt: skip


@pytest.mark.parametrize("keys", often(COURSES, [COURSES[2], COURSES[4], COURSES[5]]))
def test_it_says_what_the_real_engine_says(
    stub: StubEngine, base_model: Path, data: Path, tmp_path: Path, keys: dict[str, Any]
) -> None:
    """The same events in the same order, with the same fields, counts and file names."""
    real = run(prompts.embed(spec(**keys), tmp_path), base_model, data, tmp_path / "real").events
    status, said = train(stub, QUICK, job(tmp_path, data, **keys))
    assert status == 0
    assert course(said) == course(real)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in (tmp_path / "real").iterdir()}


def test_it_ends_early_as_the_real_engine(stub: StubEngine, base_model: Path, data: Path, tmp_path: Path) -> None:
    """The same kinds of events with the same fields, where held-out pictures get worse."""
    real = run(spec(**WORSENS, early_stopping_patience=2), base_model, data, tmp_path / "real").events
    status, said = train(stub, Orders(step_s=0.0, worse_from=4), job(tmp_path, data, **WORSENS,
                                                                     early_stopping_patience=2))  # fmt: skip
    assert status == 0

    def fields(told: list[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
        return {one["event"]: tuple(sorted(one)) for one in told if one["event"] in ("early_stop", "verdict", "done")}

    assert fields(said).keys() >= {"early_stop", "verdict"}
    assert fields(said)["early_stop"] == fields(real)["early_stop"] and fields(said)["done"] == fields(real)["done"]
    assert [one["path"] for one in said if one["event"] == "checkpoint"] == ["disc.safetensors"]


def test_it_stops_and_goes_on_as_the_real_engine(
    stub: StubEngine, base_model: Path, data: Path, tmp_path: Path
) -> None:
    """Stopped by its file after some step, then resumed: state, names and counts agree from there to the end."""
    keys: dict[str, Any] = {"max_train_epochs": None, "max_train_steps": 30, "save_every_n_steps": 10}
    (tmp_path / "stop").touch()
    status, said = train(stub, QUICK, job(tmp_path, data, **keys))
    real = run(spec(**keys), base_model, data, tmp_path / "real", stop_file=tmp_path / "stop").events
    assert status == 4 and course(said) == course(real)
    (tmp_path / "stop").unlink()
    status, again = train(stub, QUICK, job(tmp_path, data, resume=True, **keys))
    more = run(spec(**keys), base_model, data, tmp_path / "real", resume=True).events
    assert status == 0 and course(again[len(said) :]) == course(more)
    assert [one["seq"] for one in again] == list(range(len(again)))


def test_it_takes_fewer_steps_as_the_real_engine(
    stub: StubEngine, base_model: Path, data: Path, tmp_path: Path
) -> None:
    """A plan file that is there from the start shortens the run."""
    keys: dict[str, Any] = {"max_train_epochs": None, "max_train_steps": 30}
    (tmp_path / "plan.json").write_text('{"steps": 6}', encoding="utf-8")
    _, said = train(stub, QUICK, job(tmp_path, data, **keys))
    real = run(spec(**keys), base_model, data, tmp_path / "real", plan_file=tmp_path / "plan.json").events
    assert course(said) == course(real)
