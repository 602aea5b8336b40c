"""One budget for several rentals at the same time: what each may cost is set aside before it begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from gpurent.budget.ledger import Ledger
from gpurent.budget.spend import accrued
from gpurent.clock import Clock
from gpurent.money import Usd


@dataclass
class Purse:
    """Shares of a run's budget. With what was spent on rentals that have none they add up to the budget at most."""

    ledger: Ledger
    run_id: str
    clock: Clock
    seats: int
    """Workers that may rent, those that have rented included."""
    _shares: dict[str, Usd] = field(default_factory=dict, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def allot(self, tag: str) -> Usd:
        """Set aside what a rental may cost: of what is free an equal part for each worker that has none.

        Raises:
            LedgerError.
        """
        with self._lock:
            run, now = self.ledger.run(self.run_id), self.clock.now()
            spent = Usd.total([accrued(one, now) for one in run.rentals if one.tag not in self._shares])
            free = run.budget - spent - Usd.total(list(self._shares.values()))
            share = Usd(max(0, free.micros) // max(1, self.seats - len(self._shares)))
            self._shares[tag] = share
            return share

    def settle(self, tag: str) -> None:
        """A rental is over: what it did not cost is free again. One that may still run keeps its share."""
        with self._lock:
            rentals = self.ledger.run(self.run_id).rentals
            if all(one.state.over for one in rentals if one.tag == tag):
                self._shares.pop(tag, None)

    def leave(self) -> None:
        """A worker rents no more."""
        with self._lock:
            self.seats -= 1
