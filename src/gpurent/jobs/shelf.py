"""The offers that a run may still try, best first; several machines of it are rented from one shelf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from gpurent.plan.quote import QuoteRow


def machine_of(row: QuoteRow) -> tuple[str, str]:
    """Provider, and its name of the machine."""
    return row.offer.provider, row.offer.machine_id or row.offer.id


@dataclass
class Shelf:
    """Each offer is taken once. Safe from several threads."""

    rows: list[QuoteRow]
    most: int
    """Offers that may be tried."""
    number: int = 0
    """How many were tried."""
    useless: set[tuple[str, str]] = field(default_factory=set)
    """Machines that failed."""
    closed: set[str] = field(default_factory=set)
    """Providers that rent us nothing."""
    images: int = 0
    """Machines that had a fault of the image's."""
    _lock: Lock = field(default_factory=Lock, init=False)

    @classmethod
    def of(cls, rows: Sequence[QuoteRow], most: int) -> Shelf:
        """Full."""
        return cls(list(rows), most)

    def take(self) -> tuple[int, QuoteRow] | None:
        """The next offer, and its number from 1; None where nothing is left to try."""
        with self._lock:
            while self.rows and self.number < self.most:
                row = self.rows.pop(0)
                if machine_of(row) not in self.useless and row.offer.provider not in self.closed:
                    self.number += 1
                    return self.number, row
        return None

    def other(self) -> QuoteRow | None:
        """What would come next."""
        with self._lock:
            left = [] if self.number >= self.most else self.rows
            good = (one for one in left if machine_of(one) not in self.useless)
            return next((one for one in good if one.offer.provider not in self.closed), None)

    def trusted_first(self, provider: str) -> None:
        """Private homes of a provider last: the next of them would most likely lack an address too."""
        with self._lock:
            self.rows.sort(key=lambda one: one.offer.provider == provider and not one.offer.trusted)
