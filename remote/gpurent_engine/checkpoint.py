"""Files that are whole or absent: LoRA checkpoints, and the state that lets a run go on exactly where it stopped.

No pickle anywhere: states are safetensors and JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from gpurent_engine.filenames import epoch_name as epoch_name
from gpurent_engine.filenames import step_name as step_name
from gpurent_engine.stepper import StepperState

STATE = "state"


class StateMismatch(Exception):
    """The saved state belongs to another configuration or dataset."""


@dataclass(frozen=True)
class Written:
    """A complete file: its name below the output folder, digest and size in bytes."""

    path: str
    sha256: str
    size: int


def write(folder: Path, name: str, data: bytes) -> Written:
    """Write ``folder/name`` so that it is complete on disk before it bears its name.

    Raises:
        OSError: the disk is full or refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / name, folder / f"{name}.part"
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return Written(name, hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True)
class Position:
    """Where a run stands: optimiser steps done, batches done in the current epoch, epochs finished."""

    step: int
    epoch: int
    batch: int


@dataclass(frozen=True)
class Saved:
    """A state as read back: the stepper's part, where the run stood, and the losses that ``avg_loss`` is over."""

    stepper: StepperState
    position: Position
    losses: list[float]


def save_state(
    folder: Path, state: StepperState, generator: torch.Generator, position: Position, fingerprint: str,
    losses: Sequence[float],
) -> Written:  # fmt: skip
    """Write everything the next step depends on, replacing the former state as a whole."""
    tensors = {name: one.detach().cpu().contiguous() for name, one in state.tensors.items()}
    tensors["generator"] = generator.get_state()
    meta = {
        "step": position.step, "epoch": position.epoch, "batch": position.batch, "fingerprint": fingerprint,
        "scalars": state.scalars, "losses": list(losses),
    }  # fmt: skip
    return write(folder, f"{STATE}.safetensors", save(tensors, {"gpurent_state": json.dumps(meta)}))


def load_state(folder: Path, generator: torch.Generator, fingerprint: str) -> Saved:
    """Read a saved state and put ``generator`` where it stood.

    Raises:
        FileNotFoundError: there is none.
        StateMismatch: it belongs to another configuration or dataset.
    """
    path = folder / f"{STATE}.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    meta = json.loads(header["__metadata__"]["gpurent_state"])
    if meta["fingerprint"] != fingerprint:
        raise StateMismatch(
            "the saved state belongs to another configuration or dataset; it cannot be resumed with this one"
        )
    tensors = load_file(path)
    generator.set_state(tensors.pop("generator"))
    return Saved(
        StepperState(tensors, meta["scalars"]),
        Position(meta["step"], meta["epoch"], meta["batch"]),
        [math.nan if one is None else float(one) for one in meta["losses"]],
    )
