"""Every step that the ledger can take, enumerated from the code that folds it, and how often lives took it."""

from __future__ import annotations

from gpurent.budget.events import OF_A_RUN, OF_EITHER, Kind
from gpurent.budget.state import AFTER_THE_END, FROM, RentalState, Run

NOTHING = "nothing"


def transition(run: Run | None, kind: Kind, tag: str | None) -> str:
    """Name the step that a line takes: where its rental, or its run, stood, and the kind of line."""
    if tag is None:
        return f"{NOTHING if run is None else 'closed run' if run.outcome is not None else 'run'} -> {kind}"
    rental = next((one for one in run.rentals if one.tag == tag), None) if run is not None else None
    return f"{NOTHING if rental is None else rental.state} -> {kind}"


def _expected(kind: Kind) -> list[str]:
    """Where ``budget.state`` takes this kind of line without calling it an anomaly."""
    if kind in OF_A_RUN or kind in OF_EITHER:
        return [NOTHING if kind is Kind.RUN_OPENED else "run"]
    if kind is Kind.INTENT:
        return [NOTHING]
    states = FROM.get(kind, frozenset(RentalState))
    return [
        state for state in RentalState if state in states and (not state.over or kind in (*AFTER_THE_END, Kind.ADOPTED))
    ]
