"""Make rentals end: list, decide (``budget.reaper``), act, again. A run's own end and reap share this one way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import (
    Action,
    Adopt,
    ConfirmGone,
    Destroy,
    Leave,
    MarkAbsent,
    Orphan,
    reconcile,
    unattended,
    unordered,
)
from gpurent.budget.state import Rental
from gpurent.clock import Clock
from gpurent.errors import InDoubt, ProviderError
from gpurent.jobs.listing import listings
from gpurent.jobs.progress import Gone, Notice
from gpurent.jobs.waits import CHARGES_S, DESTROY_S, LIST_S, NOTE_S, PRESSING_S
from gpurent.jobs.watch import Tell
from gpurent.model import Charges
from gpurent.spi import Provider, SupportsCharges
from gpurent.tasks import Overdue, minding

T = TypeVar("T")
Collect = Callable[[Destroy], None]


@dataclass(frozen=True)
class Teardown:
    """Ends rentals and records every step before it is taken."""

    ledger: Ledger
    providers: Mapping[str, Provider]
    clock: Clock
    tell: Tell

    def decide(
        self, rentals: Sequence[Rental], live_runs: Collection[str],
        known_tags: Mapping[str, str] = MappingProxyType({}), also: Collection[str] = (),
    ) -> tuple[Action, ...]:  # fmt: skip
        """What is to be done now; asks every provider that holds a rental, and those in ``also``."""
        asked, now = self.clock.uptime(), self.clock.now()
        pressing = any(unordered(one) and unattended(one, now, live_runs) for one in rentals)
        found = listings(self.providers, rentals, also, self.tell, self.clock, PRESSING_S if pressing else LIST_S)
        return reconcile(rentals, found.shown, self.clock.now(), live_runs, known_tags, found.silent, asked=asked)

    def act(self, actions: Sequence[Action], collect: Collect = lambda _order: None) -> None:
        """Carry out; what fails is recorded and comes up again in the next round."""
        for action in actions:
            match action:
                case Adopt(tag, run_id, ref):
                    self._note(run_id, Kind.ADOPTED, tag, ref=ref)
                case Destroy():
                    if action.collect_first:
                        collect(action)
                    if not (action.collect_first and self._over(action)):
                        self.destroy(action)
                case MarkAbsent(tag, run_id, asked):
                    self._note(run_id, Kind.SEEN_ABSENT, tag, boot=asked.boot, uptime_s=asked.seconds)
                case ConfirmGone(tag, run_id, ref):
                    self._gone(tag, run_id, ref)
                case Leave() | Orphan():
                    pass

    def _note(self, run_id: str, kind: Kind, tag: str, **data: object) -> bool:
        """Write a line, if that is possible now: an end never waits for a full disk or for a database."""
        try:
            self._soon(lambda: self.ledger.append(run_id, kind, tag=tag, **data))
        except LedgerError as error:
            self._bear(error, tag)
            return False
        return True

    def _soon(self, act: Callable[[], T]) -> T:
        """Have the ledger do something, unless it is too slow for an end. Raises LedgerError."""
        try:
            return self.clock.begin(act).result(NOTE_S)
        except Overdue as error:
            raise LedgerError(f"the ledger does not answer: {error}", passing=True) from error

    def _bear(self, error: LedgerError, tag: str) -> None:
        """Tell of a ledger that cannot be used just now; one that never can be is raised."""
        if not error.passing:
            raise error
        self.tell(Notice(f"{error}. {error.hint} Ending {tag} goes on.", warning=True))

    def _over(self, order: Destroy) -> bool:
        """Whether collecting has ended it already. What cannot be read is destroyed, once too often at worst."""
        try:
            rental = self.read(order.run_id, order.tag)
        except LedgerError as error:
            self._bear(error, order.tag)
            return False
        return rental is not None and rental.state.over

    def read(self, run_id: str, tag: str) -> Rental | None:
        """The rental as the ledger has it. Raises LedgerError, after ``NOTE_S`` at the latest."""
        run = self._soon(lambda: self.ledger.run(run_id))
        return next((one for one in run.rentals if one.tag == tag), None)

    def destroy(self, order: Destroy) -> None:
        """Send one order to destroy, whatever the ledger does. What came of it is recorded and told, never raised."""
        self._jot(order, Kind.DESTROY_SENT, reason=order.reason)
        try:
            self.clock.begin(lambda: self.providers[order.provider].destroy(order.ref)).result(DESTROY_S)
        except (ProviderError, Overdue) as error:
            self._jot(order, Kind.DESTROY_FAILED, reason=str(error))
            self.tell(Notice(f"Destroying {order.ref}: {error}; trying again.", warning=True))
        else:
            self._jot(order, Kind.DESTROY_ACCEPTED)

    def _jot(self, order: Destroy, kind: Kind, **data: object) -> None:
        """As ``_note``; even a ledger that is damaged for good does not keep a machine alive."""
        try:
            self._note(order.run_id, kind, order.tag, ref=order.ref, **data)
        except LedgerError as error:
            self.tell(Notice(f"{error}. {error.hint} Ending {order.tag} goes on.", warning=True))

    def _gone(self, tag: str, run_id: str, ref: str | None) -> None:
        rental = self.read(run_id, tag)
        charges = None if rental is None or ref is None else self._charges(rental.provider, ref)
        if charges is not None:
            self._note(run_id, Kind.CHARGED, tag, charges=charges)
        if self._note(run_id, Kind.GONE, tag):
            self.tell(Gone(ref or "never created", tag))

    def settle(self, rental: Rental) -> bool:
        """Record the final bill of a rental that is over; False while the provider has none."""
        charges = None if rental.ref is None else self._charges(rental.provider, rental.ref)
        if charges is None or not charges.final:
            return False
        self.ledger.append(rental.run_id, Kind.CHARGED, tag=rental.tag, charges=charges)
        return True

    def _charges(self, name: str, ref: str) -> Charges | None:
        provider: object = self.providers.get(name)
        if not isinstance(provider, SupportsCharges):
            return None
        try:
            return self.clock.begin(lambda: provider.charges(ref)).result(CHARGES_S)
        except (ProviderError, Overdue) as error:
            self.tell(Notice(f"What {ref} was billed is not known yet: {error}"))
            return None

    def _read(self, run_id: str, tag: str, last: Rental | None) -> Rental:
        """The rental as the ledger has it; as it last had it, where it cannot be read just now."""
        try:
            found = self.read(run_id, tag)
            if found is None:
                raise LedgerError(f"the run {run_id} has no rental {tag}")
            return found
        except LedgerError as error:
            if last is None:
                raise
            self._bear(error, tag)
            return last

    def finish(
        self, run_id: str, tag: str, *, every_s: float, patience_s: float, give_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Destroy one rental and see it confirmed absent.

        Raises:
            InDoubt: not within the patience, or ``give_up`` said so; the ledger keeps it open for ``reap``.
        """
        until = self.clock.monotonic() + patience_s
        wait, rental = every_s, None

        def go_on() -> None:
            if give_up():
                raise _unconfirmed(rental, tag)

        with minding(go_on):
            while True:
                rental = self._read(run_id, tag, rental)
                if rental.state.over:
                    return
                if give_up() or self.clock.monotonic() >= until:
                    raise _unconfirmed(rental, tag)
                actions = self.decide([rental], live_runs=())
                self.act(actions)
                trouble = all(isinstance(action, Leave) for action in actions)
                wait = min(30.0, wait * 2) if trouble else every_s
                self.clock.sleep(wait)


def _unconfirmed(rental: Rental | None, tag: str) -> InDoubt:
    name = tag if rental is None else f"{rental.provider}:{rental.ref or rental.tag}"
    who = "Nobody" if rental is None else rental.provider
    return InDoubt(
        f"{who} has not confirmed the end of {tag if rental is None else rental.ref or tag}.", refs=(name,),
        hint="Run `gpurent reap` until it says that nothing is left.",
    )  # fmt: skip
