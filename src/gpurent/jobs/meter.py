"""Reads what a provider counts while a rental runs: traffic, whatever caused it, the price, and what is booked so far.

Each process that looks writes it into the ledger, so that the client, its watchdog and ``reap`` take turns and count
alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gpurent.budget.bills import judged
from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import shows
from gpurent.budget.spend import estimated
from gpurent.budget.state import Rental, Run
from gpurent.clock import Clock
from gpurent.errors import ProviderError
from gpurent.exposure import look_every_s, worst_hourly
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.model import Instance
from gpurent.money import ZERO, Usd
from gpurent.spi import Provider, SupportsCharges
from gpurent.tasks import Overdue

LOOK_WITHIN_S = 15.0
"""For one look; one that takes longer is given up, and the next comes in its time."""
OWN_S = LOOK_WITHIN_S + 1.0
"""A look that was written so soon after our own try was ours."""
BOOKED_EVERY_S = 600.0
"""Between two questions for what is booked: bills come late, and asking takes several requests."""


@dataclass(frozen=True, slots=True)
class _Shown:
    bytes_in: int
    bytes_out: int
    hourly: Usd


@dataclass
class Meter:
    """Looks at open rentals when it is time to; ``lead_s`` later where somebody else looked last and may look again."""

    ledger: Ledger
    providers: Mapping[str, Provider]
    clock: Clock
    tell: Tell
    lead_s: float = 0.0
    _tried: dict[str, float] = field(default_factory=dict, init=False)
    _asked: dict[str, float] = field(default_factory=dict, init=False)
    _told: set[str] = field(default_factory=set, init=False)
    _shown: dict[str, _Shown] = field(default_factory=dict, init=False)
    """What looks of this process showed last, by tag: it counts even while the ledger takes no line."""

    def counted(self, run: Run) -> Run:
        """The run with what this process saw, where the ledger has less of it."""
        return replace(run, rentals=tuple(self._with_shown(rental) for rental in run.rentals))

    def _with_shown(self, rental: Rental) -> Rental:
        shown = self._shown.get(rental.tag)
        if shown is None or rental.state.over:
            return rental
        return replace(
            rental,
            bytes_in=max(rental.bytes_in, shown.bytes_in),
            bytes_out=max(rental.bytes_out, shown.bytes_out),
            hourly=max(rental.hourly, shown.hourly),
        )

    def look(self, run: Run) -> bool:
        """Look at those rentals of ``run`` for which it is time; whether anything was written."""
        looked = [self._look(rental) for rental in run.open_rentals if self._due(rental)]
        return any(looked)

    def _due(self, rental: Rental) -> bool:
        """By the last look of anybody, and by our own last try, whether it could be written or not.

        A look that is yet to come was written by another clock, or by ours before it was set: it tells nothing.
        """
        if rental.ref is None or rental.provider not in self.providers:
            return False
        looked_s = self.clock.now() - (rental.intent_at if rental.metered_at is None else rental.metered_at)
        tried_s = self.clock.monotonic() - self._tried.get(rental.tag, -math.inf)
        lead_s = self.lead_s if looked_s < tried_s - OWN_S else 0.0
        last_s = min(looked_s if looked_s >= 0.0 else math.inf, tried_s)
        return last_s >= look_every_s(rental.offer) + lead_s

    def _look(self, rental: Rental) -> bool:
        assert rental.ref is not None
        self._tried[rental.tag] = self.clock.monotonic()
        provider, ref = self.providers[rental.provider], rental.ref
        try:
            shown = self.clock.begin(lambda: provider.get(ref)).result(LOOK_WITHIN_S)
        except (ProviderError, Overdue) as error:
            self._say(rental, f"What {rental.provider} counts for {ref} is not known: {error}")
            return False
        if shown is None or not shows(shown, rental):
            return False
        self._told.discard(rental.tag)
        recorded = self._record(rental, shown)
        return self._booked(rental) or recorded

    def note(self, rental: Rental, shown: Instance) -> bool:
        """Write down what a listing shows anyway, if it is time to look; whether anything was written."""
        if not self._due(rental) or not shows(shown, rental):
            return False
        self._tried[rental.tag] = self.clock.monotonic()
        return self._record(rental, shown)

    def _record(self, rental: Rental, shown: Instance) -> bool:
        """Write down what an instance shows of its traffic and price, if it says anything about them."""
        priced = worst_hourly(rental.offer) > ZERO
        counted = {"bytes_in": shown.bytes_in, "bytes_out": shown.bytes_out}
        told = {name: count for name, count in counted.items() if count is not None}
        if priced and not told:
            self._say(rental, f"{rental.provider} does not tell the traffic of {rental.ref}; only our own is counted.")
        hourly = shown.price.hourly(rental.disk_gb)
        self._shown[rental.tag] = _Shown(shown.bytes_in or 0, shown.bytes_out or 0, hourly)
        dearer = hourly > max(rental.hourly, rental.offer.price.hourly(rental.disk_gb))
        if not dearer and not (priced and told):
            return False
        if dearer:
            was = rental.offer.price.hourly(rental.disk_gb)
            self.tell(
                Notice(f"{rental.ref} costs {hourly}/h now, offered at {was}/h; the budget ends earlier.", warning=True)
            )
        return self._append(rental, Kind.METERED, **told, hourly_micros=hourly.micros if dearer else None)

    def _booked(self, rental: Rental) -> bool:
        """What its provider has booked so far, where that is more than we count."""
        provider: object = self.providers[rental.provider]
        now = self.clock.now()
        due = now >= self._asked.get(rental.tag, rental.intent_at) + BOOKED_EVERY_S
        if not isinstance(provider, SupportsCharges) or rental.ref is None or not due:
            return False
        self._asked[rental.tag] = now
        try:
            ref = rental.ref
            charges = self.clock.begin(lambda: provider.charges(ref)).result(LOOK_WITHIN_S)
        except (ProviderError, Overdue):
            return False  # the counts are what matters; bills come again
        if charges is None or charges.total <= estimated(rental, now).total:
            return False
        return self._append(rental, Kind.CHARGED, charges=judged(rental, charges, now))

    def _append(self, rental: Rental, kind: Kind, **data: object) -> bool:
        try:
            self.ledger.append(rental.run_id, kind, tag=rental.tag, **data)
        except LedgerError as error:
            if not error.passing:
                raise
            self._say(rental, f"What {rental.provider} counts is not recorded: {error}. {error.hint}")
            return False
        return True

    def _say(self, rental: Rental, why: str) -> None:
        """Once, until a look succeeds again."""
        if rental.tag not in self._told:
            self._told.add(rental.tag)
            self.tell(Notice(why, warning=True))
