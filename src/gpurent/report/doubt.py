"""Rentals that may still cost money while no client and no watchdog looks after them."""

from __future__ import annotations

from collections.abc import Collection

from gpurent.budget.ledger import Ledger


def in_doubt(ledger: Ledger, alive: Collection[str]) -> list[str]:
    """Open rentals of runs that are not ``alive``, as ``provider:ref (run id)``."""
    return [
        f"{rental.provider}:{rental.ref or rental.tag} (run {rental.run_id})"
        for rental in ledger.open_rentals()
        if rental.run_id not in alive
    ]


def untold(doubtful: Collection[str], told: Collection[str]) -> list[str]:
    """Those of ``doubtful`` whose ``provider:ref`` the user was not told of just now."""
    known = {ref.partition(" ")[0] for ref in told}
    return [ref for ref in doubtful if ref.partition(" ")[0] not in known]
