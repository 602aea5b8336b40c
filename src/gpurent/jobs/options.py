"""What a user may say about a run besides its jobs and its budget: one frozen value, as it travels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpurent.model import Need, OnOverrun

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
