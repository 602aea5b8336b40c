"""What lets a run go on exactly where it was: written beside the training, read back at its start.

A state is one safetensors file and holds no pickle: masters, all that the optimiser keeps, the random generator, the
position, and what it belongs to.

What must be equal for a state to fit is everything that decides what is learnt from one picture: base, dataset,
network, rates, loss, seed. What may change, and how the run then goes on:

* length (``max_train_epochs``, ``max_train_steps``): the curve of the rates is that of the new length from here on;
* batch size and accumulation: the epoch under way is finished from the same share of it, rounded down, and in a run
  counted in epochs the step is the one that a run of the new size would be at;
* how often and how files are saved, and what only saves memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpurent_engine import checkpoint
from gpurent_engine.buckets import Length
from gpurent_engine.checkpoint import Position, Written
from gpurent_engine.data import Dataset
from gpurent_engine.spec import TrainSpec
from gpurent_engine.stepper import StepperState
from gpurent_engine.verdicts import Look

FILE = "state.safetensors"
SHARE = 20
"""Without ``save_state_every_n_minutes`` a state is written each twentieth of the run: at most 5 % is lost."""
LEAST_S = 1.0
"""But not more often than this; a run of seconds is quicker done again."""
BEST = "best."
"""Before the names of adapters that did best on held-out pictures."""
FREE = frozenset((
    "max_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "save_every_n_epochs",
    "save_every_n_steps", "save_precision", "save_state_every_n_minutes", "output_name", "output_dir", "train_data_dir",
    "gradient_checkpointing", "vae_batch_size", "training_comment", "metadata_title", "metadata_author",
    "metadata_description", "metadata_license", "metadata_tags", "metadata_trigger_phrase", "metadata_usage_hint",
    "metadata_thumbnail", "metadata_merged_from", "metadata_preprocessor", "metadata_is_negative_embedding", "warnings",
    "early_stopping_patience", "early_stopping_threshold", "sample_prompts", "sample_every_n_epochs",
    "sample_every_n_steps", "sample_at_first", "sample_sampler", "samples", "logging_dir", "log_with", "log_prefix",
    "log_tracker_name", "pretrained_model_name_or_path", "validate_every_n_steps", "validate_every_n_epochs",
    "max_validation_steps", "initial_epoch", "initial_step",
))  # fmt: skip
"""Keys that may differ. The base is compared by its weights, not by its path."""


class StateMismatch(Exception):
    """The saved state belongs to another run, or cannot be read."""


@dataclass(frozen=True)
class Snapshot:
    """A state in memory, on the CPU."""

    stepper: StepperState
    generator: torch.Tensor
    position: Position
    length: Length
    losses: list[float]
    identity: dict[str, str]
    looks: tuple[Look, ...] = ()
    """At held-out pictures."""
    best: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Adapters of the best of them."""


def identity(spec: TrainSpec, found: Dataset, unet: torch.nn.Module) -> dict[str, str]:
    """What must be equal, key by key, so that a mismatch can be named."""
    kept = {key: json.dumps(value, default=str) for key, value in spec.to_dict().items() if key not in FREE}
    images = [
        (image.path.name, image.caption, image.width, image.height, image.path.stat().st_size) for image in found.images
    ]
    repeats = [(folder.name, folder.repeats) for folder in found.folders]
    kept["base model"] = _weights_digest(unet)
    kept["dataset"] = hashlib.sha256(json.dumps([images, repeats]).encode()).hexdigest()
    return kept


def _weights_digest(unet: torch.nn.Module) -> str:
    """Tells bases apart by their first and last layer; every fine-tune changes both."""
    digest = hashlib.sha256()
    for name in ("conv_in", "conv_out"):
        weight = unet.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def take(
    state: StepperState, generator: torch.Tensor, position: Position, length: Length, *, losses: Sequence[float],
    belongs_to: dict[str, str], looks: Sequence[Look] = (), best: Mapping[str, torch.Tensor] | None = None,
) -> Snapshot:  # fmt: skip
    """Copy everything to the CPU; the training may go on as soon as this returns."""
    tensors = {name: one.detach().to("cpu", copy=True).contiguous() for name, one in state.tensors.items()}
    return Snapshot(
        stepper=StepperState(tensors, state.scalars),
        generator=generator,
        position=position,
        length=length,
        losses=list(losses),
        identity=belongs_to,
        looks=tuple(looks),
        best=dict(best or {}),
    )


def save(folder: Path, snapshot: Snapshot) -> Written:
    """Write a state, replacing the former one as a whole.

    Raises:
        OSError: the disk is full; the former state is still there.
    """
    position, length = snapshot.position, snapshot.length
    meta = {
        "step": position.step, "epoch": position.epoch, "batch": position.batch, "identity": snapshot.identity,
        "scalars": snapshot.stepper.scalars, "losses": [one if math.isfinite(one) else None for one in snapshot.losses],
        "looks": [[one.step, one.epoch, one.loss if math.isfinite(one.loss) else None] for one in snapshot.looks],
        "length": [length.batches_per_epoch, length.steps_per_epoch, length.epochs, length.steps],
    }  # fmt: skip
    tensors = {**snapshot.stepper.tensors, "generator": snapshot.generator}
    tensors |= {f"{BEST}{name}": one for name, one in snapshot.best.items()}
    return checkpoint.write(folder, FILE, checkpoint.safetensors(tensors, {"gpurent_state": json.dumps(meta)}))


def load(folder: Path) -> Snapshot:
    """Read a state.

    Raises:
        FileNotFoundError: there is none.
        StateMismatch: it is damaged, or of another version of this engine.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, path.stat().st_size)))
        meta = json.loads(header["__metadata__"]["gpurent_state"])
        tensors = load_file(path)
        best = {name.removeprefix(BEST): tensors.pop(name) for name in [*tensors] if name.startswith(BEST)}
        return Snapshot(
            generator=tensors.pop("generator"),
            stepper=StepperState(tensors, meta["scalars"]),
            position=Position(meta["step"], meta["epoch"], meta["batch"]),
            length=Length(*meta["length"]),
            losses=[math.nan if one is None else float(one) for one in meta["losses"]],
            identity=meta["identity"],
            looks=tuple(
                Look(step, epoch, math.nan if loss is None else loss) for step, epoch, loss in meta.get("looks", ())
            ),
            best=best,
        )
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StateMismatch(f"{path.name} is damaged or of another version of the engine: {error!r}") from error


def check(saved: Snapshot, belongs_to: dict[str, str]) -> None:
    """Compare what must be equal.

    Raises:
        StateMismatch: naming every key that differs, with both values.
    """
    differing = sorted(key for key in {*saved.identity, *belongs_to} if saved.identity.get(key) != belongs_to.get(key))
    if differing:
        said = [
            f"the {key}"
            if key in ("dataset", "base model")
            else f"{key} (was {saved.identity.get(key)}, is {belongs_to.get(key)})"
            for key in differing
        ]
        raise StateMismatch(f"the saved state cannot be continued: {', '.join(said)} changed since")


def carried_over(saved: Snapshot, now: Length, spec: TrainSpec) -> Position:
    """Where a run of length ``now`` goes on from a saved one; the rule is in this module's docstring."""
    old, at = saved.length, saved.position
    if (old.batches_per_epoch, old.steps_per_epoch) == (now.batches_per_epoch, now.steps_per_epoch):
        return at
    gather = spec.gradient_accumulation_steps
    batch = at.batch * now.batches_per_epoch // old.batches_per_epoch // gather * gather
    by_epochs = spec.max_train_epochs is not None
    done = (at.epoch - now.skipped) * now.steps_per_epoch + batch // gather
    return Position(done if by_epochs else at.step, at.epoch, batch)


class Keeper:
    """Writes states beside the training, one at a time, so that the GPU does not wait for the disk."""

    def __init__(self, folder: Path, every_minutes: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._every_s = every_minutes * 60
        self._clock = clock
        self._last_step = 0
        self._last_time = clock()
        self._thread: threading.Thread | None = None
        self._outcomes: list[tuple[Written | OSError, Position]] = []

    def begin(self, step: int) -> None:
        """Count from here."""
        self._last_step, self._last_time = step, self._clock()

    def due(self, step: int, total: int) -> bool:
        """Whether a state should be written after ``step``."""
        if self._thread is not None and self._thread.is_alive():
            return False
        if self._every_s:
            return self._clock() - self._last_time >= self._every_s
        share = step - self._last_step >= max(1, -(-total // SHARE))
        return share and self._clock() - self._last_time >= LEAST_S

    def start(self, snapshot: Snapshot) -> None:
        """Write in the background; a write under way is waited for."""
        self._join()
        self.begin(snapshot.position.step)
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="state", daemon=True)
        self._thread.start()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self._outcomes.append((save(self._folder, snapshot), snapshot.position))
        except OSError as error:
            self._outcomes.append((error, snapshot.position))

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finished(self, *, wait: bool = False) -> tuple[Written, Position] | None:
        """The state that was written since the last call, if any.

        Raises:
            OSError: it could not be written.
        """
        if wait:
            self._join()
        if not self._outcomes:
            return None
        outcome, position = self._outcomes[-1]  # an earlier one has been replaced on disk
        self._outcomes.clear()
        if isinstance(outcome, OSError):
            raise outcome
        return outcome, position
