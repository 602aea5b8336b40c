"""Whether a run's client is alive, where it may be on another computer that shares the ledger. Pure.

A lock tells at once of a client on this computer. Of another's only the ledger tells: taking a living client's machine
away loses a training, waiting costs money that its budget covers, so we wait until its silence is beyond doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpurent.budget.state import Rental, RentalState, Run

SILENCE_S = 900.0
"""A client that neither prepares nor trains writes a line more often than this."""
PREPARING_S = 3600.0
"""Uploading a dataset and installing packages may pass without a line for this long."""
AFTER_DEADLINE_S = 600.0
"""How long past its hard deadline a training client may still be collecting and destroying."""


@dataclass(frozen=True, slots=True)
class Here:
    """This computer, as lines of the ledger name it."""

    host: str
    place: str
    """Name of the state folder; empty while it has none."""


def elsewhere(run: Run, here: Here) -> bool:
    """Whether the run was started where our locks tell nothing. A host may be renamed, a state folder is not."""
    client = run.client
    return client.place != here.place if client.place else client.host not in ("", here.host)


def believed_alive(run: Run, now: float) -> bool:
    """Whether the client on another computer has to be taken for alive at ``now`` (Unix seconds)."""
    return run.outcome is None and now < max(
        (_until(one, run.heard_at) for one in run.open_rentals), default=run.heard_at + SILENCE_S
    )


def _until(rental: Rental, heard_at: float) -> float:
    """It trains for as long as it may; the machine's own switch is what ends it before, not we."""
    if rental.state is RentalState.TRAINING and not rental.job_over:
        return rental.hard_deadline + AFTER_DEADLINE_S
    return heard_at + (PREPARING_S if rental.state is RentalState.REACHABLE else SILENCE_S)
