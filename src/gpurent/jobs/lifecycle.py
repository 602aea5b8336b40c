"""What a client does next with a rental: one pure decision over its state in the ledger and what is known just now.

``budget.reaper.reconcile`` is the other half: what is done about rentals that have no client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from gpurent.budget.state import RentalState
from gpurent.jobs.interrupt import Stop
from gpurent.money import ZERO, Usd


class Step(StrEnum):
    """What there is to do."""

    GO_ON = "go on"
    SAVE = "save"
    """Have the engine save and end; what it made comes home, then the machine ends."""
    DESTROY = "destroy"
    LEAVE = "leave"
    """Do nothing more; the other guards end it."""
    OVER = "over"


class Machine(StrEnum):
    """What the provider says of the machine."""

    UNASKED = "unasked"
    LISTED = "listed"
    MISSING = "missing"
    STOPPED = "stopped"


Cause = Literal["", "wish", "budget", "machine"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the decision rests on. Times are Unix seconds, spans seconds."""

    now: float
    soft: float
    hard: float
    wish: Stop = Stop.NONE
    left: Usd | None = None
    """Of the budget, after everything that was billed so far; None where that is not known just now."""
    reserve: Usd = ZERO
    """What destroying may cost."""
    saving: Usd = ZERO
    """What saving and collecting may cost."""
    machine: Machine = Machine.UNASKED
    silent_s: float = 0.0
    """How long it has not answered."""
    patience_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Decision:
    """A step, the reason in words, and whose doing it is."""

    step: Step
    why: str = ""
    cause: Cause = ""


def next_step(state: RentalState, facts: Facts) -> Decision:
    """Decide. What ends a rental comes before what saves its work, and the user's word before everything else."""
    if state.over:
        return Decision(Step.OVER)
    return _ended(facts) or _wound_up(state, facts) or Decision(Step.GO_ON)


def _ended(facts: Facts) -> Decision | None:
    if facts.wish >= Stop.LEAVE:
        return Decision(Step.LEAVE, "left running at your wish", "wish")
    if facts.wish >= Stop.NOW:
        return Decision(Step.DESTROY, "stopped at your wish", "wish")
    if facts.now >= facts.hard:
        return Decision(Step.DESTROY, "the hard deadline of the budget is reached", "budget")
    if facts.left is not None and facts.left < facts.reserve:
        return Decision(Step.DESTROY, "traffic took what was left of the budget", "budget")
    if facts.machine is Machine.STOPPED:
        return Decision(Step.DESTROY, "the machine was stopped by its provider", "machine")
    if facts.machine is Machine.MISSING:
        return Decision(Step.DESTROY, "the machine is gone", "machine")
    if facts.silent_s > facts.patience_s:
        return Decision(Step.DESTROY, f"the machine has not answered for {facts.patience_s:.0f} s", "machine")
    return None


def _wound_up(state: RentalState, facts: Facts) -> Decision | None:
    """Before training there is nothing to save."""
    trains = state is RentalState.TRAINING
    if facts.wish >= Stop.ORDERLY:
        return Decision(Step.SAVE if trains else Step.DESTROY, "stopped at your wish", "wish")
    if facts.now >= facts.soft:
        if trains:
            return Decision(Step.SAVE, "the budget's soft deadline is reached", "budget")
        return Decision(Step.DESTROY, "the budget was used up before training began", "budget")
    if trains and facts.left is not None and facts.left < facts.reserve + facts.saving:
        return Decision(Step.SAVE, "what is left of the budget pays for saving and collecting", "budget")
    return None
