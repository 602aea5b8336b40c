"""A run that is interrupted and goes on is the run that was never interrupted, bit for bit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from tests.engine.run import Told, run, spec
from tests.thorough import often

from gpurent_engine import checkpoint, states
from gpurent_engine.buckets import Length
from gpurent_engine.checkpoint import Position
from gpurent_engine.events import EventWriter
from gpurent_engine.loop import NotANumber, follow, train
from gpurent_engine.setup import Order, prepare
from gpurent_engine.states import Keeper, Snapshot, StateMismatch, carried_over
from gpurent_engine.stepper import Batch, Stepper, StepperState


class Killed(BaseException):
    """Ends the run as a killed process does: nothing that handles errors comes to anything."""


class Failed(Exception):
    """Ends the run as an error of the machine does."""


def end_at(step: int, how: type[BaseException]) -> Callable[[dict[str, Any]], None]:
    """Raise out of the report of ``step``."""

    def act(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise how

    return act


def equal(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


FEATURES: dict[str, object] = {
    "shuffle_caption": True, "caption_dropout_rate": 0.2, "noise_offset": 0.05, "min_snr_gamma": 5.0,
    "lr_scheduler": "cosine_with_restarts", "lr_warmup_steps": 2, "lr_scheduler_num_cycles": 2,
    "gradient_accumulation_steps": 2, "train_batch_size": 1, "max_train_epochs": 3, "random_crop": True,
    "color_aug": True, "flip_aug": True, "resolution": 24,
}  # fmt: skip


def test_stopped_at_any_step_and_resumed_it_is_the_run_left_alone(
    base_model: Path, pictures: Path, tmp_path: Path
) -> None:
    """Stopped after every single step, with every stateful feature on: losses and file are equal bit for bit."""
    the_spec = spec(**FEATURES)
    whole = run(the_spec, base_model, pictures, tmp_path / "whole")
    stop = threading.Event()
    stop.set()
    losses: list[float] = []
    for turn in range(20):
        part = run(the_spec, base_model, pictures, tmp_path / "parts", resume=turn > 0, stop=stop)
        losses += part.losses
        if not part.result.stopped:
            break
    assert losses == whole.losses and len(losses) == 9
    assert equal(tmp_path / "whole" / "disc.safetensors", tmp_path / "parts" / "disc.safetensors")


def test_stopped_where_it_was_told_to_stop_it_goes_on_elsewhere(
    base_model: Path, pictures: Path, tmp_path: Path
) -> None:
    """With text encoder, buckets and accumulation: the state alone, carried elsewhere, ends in the same file."""
    the_spec = spec(**FEATURES)
    run(the_spec, base_model, pictures, tmp_path / "whole")
    order = Order(the_spec, str(base_model), pictures, tmp_path / "here", stop_at=5)
    with EventWriter(tmp_path / "here" / "events.jsonl") as out:
        stopped = train(order, out, threading.Event())
    assert (stopped.stopped, stopped.steps) == (True, 5)
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / states.FILE).rename(tmp_path / "there" / states.FILE)
    rest = run(the_spec, base_model, pictures, tmp_path / "there", resume=True)
    assert rest.of("plan")[0]["start_step"] == 5
    assert equal(tmp_path / "whole" / "disc.safetensors", tmp_path / "there" / "disc.safetensors")


@pytest.mark.parametrize("step", often([2, 5, 8], [5]))
def test_killed_between_checkpoints_it_goes_on_from_the_last_state(
    base_model: Path, pictures: Path, tmp_path: Path, step: int
) -> None:
    """A state from between two checkpoints is enough; the steps after it are done again, equally."""
    the_spec = spec(**FEATURES, save_state_every_n_minutes=1e-9)
    whole = run(the_spec, base_model, pictures, tmp_path / "whole")
    with pytest.raises(Killed):
        run(the_spec, base_model, pictures, tmp_path / "parts", on_event=end_at(step, Killed))
    rest: Told = run(the_spec, base_model, pictures, tmp_path / "parts", resume=True)
    start = rest.of("plan")[0]["start_step"]
    assert 1 <= start < step
    assert rest.losses == whole.losses[start:]
    assert equal(tmp_path / "whole" / "disc.safetensors", tmp_path / "parts" / "disc.safetensors")


def test_what_a_failed_run_has_learnt_is_saved(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """The last step is in a file of its own, announced; a run that goes on from there loses nothing."""
    whole = run(spec(max_train_epochs=3), base_model, pictures, tmp_path / "whole")
    with pytest.raises(Failed):
        run(spec(max_train_epochs=3), base_model, pictures, tmp_path, on_event=end_at(7, Failed))
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    last = [one for one in told if one["event"] == "checkpoint"][-1]
    assert (last["path"], last["step"], last["final"]) == ("disc-step00000007.safetensors", 7, False)
    assert load_file(tmp_path / last["path"])
    rest = run(spec(max_train_epochs=3), base_model, pictures, tmp_path, resume=True)
    assert rest.losses == whole.losses[7:]


class Spoiled:
    """A stepper whose inputs are NaN from a step on, as an overflow in half precision makes them."""

    def __init__(self, inner: Stepper, good: int) -> None:
        self._inner = inner
        self._left = good
        self.adapters, self.state, self.restore = inner.adapters, inner.state, inner.restore
        self.release, self.lighten, self.examine = inner.release, inner.lighten, inner.examine
        self.predict, self.rehearse = inner.predict, inner.rehearse

    def step(self, batches: Sequence[Batch], rates: Sequence[float]) -> torch.Tensor:
        self._left -= 1
        if self._left < 0:
            batches = [replace(one, noise=one.noise * float("nan")) for one in batches]
        return self._inner.step(batches, rates)


def test_a_run_that_diverged_leaves_its_last_good_weights(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """NaN never takes the place of a good state; the file that is left is finite and from before."""
    order = Order(spec(max_train_epochs=9, save_state_every_n_minutes=1e-9), str(base_model), pictures, tmp_path)
    with EventWriter(tmp_path / "events.jsonl", every_s=0) as out:
        prepared = prepare(order, out)
        prepared.stepper = Spoiled(prepared.stepper, good=10)
        with pytest.raises(NotANumber):
            follow(prepared, out, threading.Event(), 0.0)
    left = sorted(tmp_path.glob("disc-step*.safetensors"))
    assert [one.name for one in left] == ["disc-step00000010.safetensors"]
    assert all(torch.isfinite(one).all() for one in load_file(left[0]).values())


def test_more_epochs_go_on_where_fewer_ended(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Train to epoch 2, look, go on to 4: with constant rates the same as 4 at once."""
    whole = run(spec(max_train_epochs=4), base_model, pictures, tmp_path / "whole")
    first = run(spec(max_train_epochs=2), base_model, pictures, tmp_path / "parts")
    rest = run(spec(max_train_epochs=4), base_model, pictures, tmp_path / "parts", resume=True)
    assert first.losses + rest.losses == whole.losses
    assert equal(tmp_path / "whole" / "disc.safetensors", tmp_path / "parts" / "disc.safetensors")


def test_epochs_after_a_lora_bear_the_numbers_that_they_have_in_the_whole_training(
    base_model: Path, pictures: Path, tmp_path: Path
) -> None:
    """As with kohya's ``network_weights`` and ``initial_epoch``; what was saved on the way is named by them as well."""
    run(spec(max_train_epochs=1), base_model, pictures, tmp_path / "first")
    begun = str(tmp_path / "first" / "disc.safetensors")
    keys = {"max_train_epochs": 4, "save_every_n_epochs": 1, "network_weights": begun}
    told = run(spec(**keys, initial_epoch=2), base_model, pictures, tmp_path / "rest")
    assert [one["epoch"] for one in told.of("step")] == [2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert sorted(path.name for path in (tmp_path / "rest").glob("disc*.safetensors")) == [
        "disc-000002.safetensors", "disc-000003.safetensors", "disc.safetensors",
    ]  # fmt: skip
    by_step = run(spec(**keys, initial_step=5), base_model, pictures, tmp_path / "by step")  # of epoch 2
    assert by_step.losses == told.losses


def test_another_batch_size_goes_on_at_the_same_share_of_the_epoch(
    base_model: Path, pictures: Path, tmp_path: Path
) -> None:
    """Six pictures at batch 1, stopped after epoch 1 and a half: at batch 3 one and a half of two epochs are done."""
    stop = tmp_path / "stop"

    def late(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 8:
            stop.touch()

    first = run(spec(train_batch_size=1), base_model, pictures, tmp_path / "o", stop_file=stop, on_event=late)
    assert first.result.steps == 9
    rest = run(spec(train_batch_size=3), base_model, pictures, tmp_path / "o", resume=True)
    assert (rest.of("plan")[0]["start_step"], rest.result.steps, len(rest.losses)) == (3, 4, 1)


LONG = Length(100, 50, 10, 500)


@pytest.mark.parametrize(
    ("now", "keys", "wanted"),
    [
        (LONG, {"gradient_accumulation_steps": 2, "max_train_epochs": 10}, Position(170, 3, 40)),
        (Length(100, 50, 20, 1000), {"gradient_accumulation_steps": 2, "max_train_epochs": 20}, Position(170, 3, 40)),
        (Length(50, 50, 10, 500), {"max_train_epochs": 10}, Position(170, 3, 20)),
        (Length(25, 25, 10, 250), {"max_train_epochs": 10}, Position(85, 3, 10)),
        (Length(25, 9, 10, 90), {"gradient_accumulation_steps": 3, "max_train_epochs": 10}, Position(30, 3, 9)),
        (Length(25, 25, 20, 500), {}, Position(170, 3, 10)),
    ],
)
def test_the_rule_for_another_batch_size(now: Length, keys: dict[str, object], wanted: Position) -> None:
    """170 steps into a run of 500: the share of the epoch is kept, in whole steps; epochs decide the step."""
    saved = Snapshot(StepperState({}), torch.empty(0), Position(170, 3, 40), LONG, [], {})
    assert carried_over(saved, now, spec(**{"max_train_epochs": None, **keys})) == wanted


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"unet_lr": 1e-3}, "unet_lr (was 0.01, is 0.001)"),
        ({"seed": 6}, "seed (was 5, is 6)"),
        ({"network_dim": 8}, "network_dim (was 4, is 8)"),
    ],
)
def test_a_key_that_decides_what_is_learnt_must_not_change(
    base_model: Path, pictures: Path, tmp_path: Path, keys: dict[str, object], named: str
) -> None:
    """The message names the key and both values."""
    run(spec(max_train_epochs=1), base_model, pictures, tmp_path)
    with pytest.raises(StateMismatch) as caught:
        run(spec(max_train_epochs=1, **keys), base_model, pictures, tmp_path, resume=True)
    assert named in str(caught.value)


def test_another_base_and_another_dataset_are_named(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Told by weights and files, not by paths."""
    import shutil

    from tests.engine import tiny_model

    run(spec(max_train_epochs=1), base_model, pictures, tmp_path / "o")
    moved = shutil.copytree(base_model, tmp_path / "moved")
    run(spec(max_train_epochs=1), moved, pictures, tmp_path / "o", resume=True)
    file = next((moved / "unet").glob("*.safetensors"))
    weights = load_file(file)
    weights["conv_in.weight"] += 1e-3
    file.write_bytes(save(weights))
    with pytest.raises(StateMismatch, match="the base model"):
        run(spec(max_train_epochs=1), moved, pictures, tmp_path / "o", resume=True)
    fewer = tiny_model.pictures(tmp_path / "fewer", 5)
    with pytest.raises(StateMismatch, match="the dataset"):
        run(spec(max_train_epochs=1), base_model, fewer, tmp_path / "o", resume=True)


@pytest.mark.parametrize("spoil", [b"", b"\x10\0\0\0\0\0\0\0{", b"\xff" * 90])
def test_a_damaged_state_is_an_error_and_no_fresh_start(
    base_model: Path, pictures: Path, tmp_path: Path, spoil: bytes
) -> None:
    """Going on from nothing would look like success."""
    (tmp_path / states.FILE).write_bytes(spoil)
    with pytest.raises(StateMismatch, match="damaged"):
        run(spec(max_train_epochs=1), base_model, pictures, tmp_path, resume=True)


def test_files_are_written_as_the_library_writes_them(tmp_path: Path) -> None:
    """Our writer of safetensors gives what the library reads, and byte for byte what it writes."""
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a": torch.tensor(3, dtype=torch.int64),
        "c": torch.zeros(0, 4), "d": torch.ones(3, dtype=torch.uint8), "e": torch.ones(5, dtype=torch.bfloat16),
        "f": torch.tensor([True, False]),
    }  # fmt: skip
    written = checkpoint.write(tmp_path, "x.safetensors", checkpoint.safetensors(tensors, {"k": "v"}))
    data = (tmp_path / "x.safetensors").read_bytes()
    assert data == save(tensors, {"k": "v"}) and written.size == len(data)
    back = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(back[name], one) for name, one in tensors.items())


def test_a_state_is_due_each_twentieth_or_each_so_many_minutes(tmp_path: Path) -> None:
    """At most 5 % of a run is lost, or a second; with minutes the clock decides."""
    now = [0.0]
    by_share = Keeper(tmp_path, 0, clock=lambda: now[0])
    by_clock = Keeper(tmp_path, 5, clock=lambda: now[0])
    assert not by_share.due(10, 200) and not by_clock.due(100, 200)
    now[0] = 1.0
    assert [step for step in range(1, 12) if by_share.due(step, 200)] == [10, 11]
    now[0] = 301.0
    assert by_clock.due(1, 200)
    by_clock.begin(1)
    assert not by_clock.due(2, 200)
