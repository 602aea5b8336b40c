"""Machines that failed before training began are left out for a while. Pure.

By machine, not by offer: services list a bad machine again and again, each time under a new offer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpurent.budget.state import Run

Machine = tuple[str, str]
"""Provider and its name of the machine."""


def avoided(runs: Iterable[Run], now: float, hours: float) -> Mapping[Machine, str]:
    """Machines that failed within the last ``hours``, and why."""
    found: dict[Machine, str] = {}
    for run in runs:
        for rental in run.rentals:
            machine = rental.offer.machine_id
            if machine and rental.failed_at is not None and now - rental.failed_at < hours * 3600:
                ago = max(0.0, now - rental.failed_at) / 3600
                found[rental.provider, machine] = f"failed {ago:.0f} h ago ({rental.failure})"
    return found
