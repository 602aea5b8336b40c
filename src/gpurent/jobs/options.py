"""What a user may say about a run besides its jobs and its budget: one frozen value, as it travels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpurent.errors import UsageError
from gpurent.model import Need, OnOverrun

MOST_IDLE_MINUTES = 240.0
OnFailure = Literal["continue", "stop"]
"""What a batch does when a job has failed by its own fault."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """None leaves a choice to ``gpurent.toml``."""

    need: Need | None = None
    """What is asked of a machine."""
    unguarded: bool = False
    """Rent even where the machine cannot end itself; then only this computer guards the budget."""
    hold_minutes: float | None = None
    """How long results stay on a machine when no client comes for them."""
    max_hours: float | None = None
    """After which a rental ends, whatever the budget."""
    on_overrun: OnOverrun | None = None
    """What happens when the measured speed says that a job will not fit."""
    stop_at: float | None = None
    """Share of the steps after which a job stops, with the schedule of the whole and a state to go on from."""
    grid: bool | None = None
    """Whether a grid of each LoRA is drawn on the machine once the LoRA is at home."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What holds for a batch alone."""

    on_failure: OnFailure = "continue"
    again: bool = False
    """Train what has a verified result already."""
    in_order: bool = False
    """As given, instead of by base model and the shortest first."""
    rentals: int | Literal["auto"] = 1
    """Machines at the same time; ``auto``: as many as the budget pays for and make it faster."""
    partial: bool = False
    """Begin although the budget surely pays for the first jobs only."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What holds for a session alone."""

    idle_minutes: float = 10.0
    """A machine that has no job for so long is terminated; the next job rents another one."""
    linger_minutes: float | None = None
    """A session that has no machine for so long is closed; None: it stays open."""

    def __post_init__(self) -> None:
        if not 0 < self.idle_minutes <= MOST_IDLE_MINUTES:
            raise UsageError(
                f"{self.idle_minutes:g} minutes are not an idle limit",
                hint=f"A machine may wait for a job for up to {MOST_IDLE_MINUTES:.0f} minutes.",
            )

    @property
    def idle_s(self) -> float:
        """In seconds."""
        return self.idle_minutes * 60

    @property
    def linger_s(self) -> float | None:
        """In seconds."""
        return None if self.linger_minutes is None else self.linger_minutes * 60
