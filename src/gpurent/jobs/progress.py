"""What a running session tells its watchers: frozen values, no rendering."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gpurent.model import Offer
from gpurent.money import Usd


class Stage(StrEnum):
    """The parts of a session, in order."""

    RENT = "rent"
    BOOT = "boot"
    PROVE = "prove"
    UPLOAD = "upload"
    PREPARE = "prepare"
    TRAIN = "train"
    COLLECT = "collect"
    DRAW = "draw"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class Spending:
    """Money so far; sent about once a second while a rental lives."""

    spent: Usd
    budget: Usd
    soft_deadline: float
    """Unix seconds at which training is stopped for the budget's sake."""
    hard_deadline: float


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins; ``total`` is bytes or steps where known."""

    stage: Stage
    message: str
    total: int | None = None


@dataclass(frozen=True, slots=True)
class StageMoved:
    """Bytes or steps done so far in the stage."""

    stage: Stage
    done: int
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Rented:
    """An offer became a rental."""

    offer: Offer
    ref: str
    tag: str
    run_id: str
    guards: tuple[str, ...]
    """Which layers will stop it: ``this client``, ``watchdog``, ``dead-man switch``."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One report of the engine."""

    step: int
    total: int
    epoch: int
    epochs: int
    loss: float | None
    """None when it was not a finite number."""
    avg_loss: float | None
    it_s: float
    peak_mem_mb: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Collected:
    """A file is home and verified."""

    path: Path
    size: int
    sha256: str
    final: bool


@dataclass(frozen=True, slots=True)
class JobBegun:
    """A batch goes on with its next job."""

    name: str
    number: int
    of: int


@dataclass(frozen=True, slots=True)
class JobOver:
    """A job of a batch has ended, or is not begun; ``state`` is ``done``, ``stopped``, ``failed`` or ``not begun``."""

    name: str
    state: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell the user once."""

    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """A rental is destroyed and confirmed absent."""

    ref: str
    tag: str


Progress = Spending | StageStarted | StageMoved | Rented | Trained | Collected | Notice | Gone | JobBegun | JobOver
