"""Make rentals end: list, decide (``budget.reaper``), act, again. A run's own end and reap share this one way."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from gpurent.budget.bills import judged
from gpurent.budget.clocks import SAME_CLOCK, OtherClock
from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.guard import overdue
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import (
    Action,
    Adopt,
    ConfirmGone,
    Destroy,
    Leave,
    MarkAbsent,
    Orphan,
    OtherAccount,
    other_account,
    reconcile,
    shows,
    unattended,
    unordered,
)
from gpurent.budget.state import Rental, Run
from gpurent.clock import Clock
from gpurent.errors import InDoubt, ProviderError
from gpurent.exposure import LEAD_S
from gpurent.jobs.accounts import Accounts
from gpurent.jobs.listing import listings
from gpurent.jobs.meter import Meter
from gpurent.jobs.progress import Gone, Notice
from gpurent.jobs.waits import CHARGES_S, DESTROY_S, LIST_S, NOTE_S, PRESSING_S
from gpurent.jobs.watch import Tell
from gpurent.jobs.whose import Proof
from gpurent.model import Charges, Instance
from gpurent.spi import Provider, SupportsCharges
from gpurent.tasks import Overdue, minding

T = TypeVar("T")
MOST_S = 30.0
"""Between two rounds, while nothing can be done."""
SEEK_AFTER_S, SEEK_EVERY_S = 120.0, 60.0
"""So long after its intent others look for a machine that has no number yet, and so often. The process that
asked for it looks for a minute."""
UNRECORDED_S = 120.0
"""For so long it is seen to that an order is obeyed while the ledger cannot be used."""
Collect = Callable[[Destroy], None]
Listing = Mapping[str, Sequence[Instance] | None]
"""What providers show; None where one did not answer."""


@dataclass
class Teardown:
    """Ends rentals and records every step before it is taken."""

    ledger: Ledger
    providers: Mapping[str, Provider]
    clock: Clock
    tell: Tell
    accounts: Accounts
    rented: Collection[str] = ()
    """Tags of rentals that this process made, with the keys that are in use."""
    clock_of: Callable[[str], OtherClock] = lambda _run_id: SAME_CLOCK
    """The clock of the computer that a run was started on, beside ours."""
    lasting: Collection[str] = ()
    """Providers whose refs never come to mean another machine (``Facts.lasting_refs``)."""

    def __post_init__(self) -> None:
        self._proof = Proof(self.providers, self.clock, self.tell, self.lasting)
        self._meter = Meter(self.ledger, self.providers, self.clock, self.tell, lead_s=LEAD_S)
        self._seeks: dict[str, float] = {}
        """When machines without a number were last looked for, by tag."""
        self._refused: dict[str, str] = {}
        """Why the last order to destroy was not accepted, by ref."""
        self._known: dict[str, Rental] = {}
        """Rentals as the ledger last had them, by tag."""

    def decide(
        self, rentals: Sequence[Rental], live_runs: Collection[str],
        known_tags: Mapping[str, str] = MappingProxyType({}), also: Collection[str] = (),
    ) -> tuple[Action, ...]:  # fmt: skip
        """What is to be done now; asks every provider that holds a rental, and those in ``also``."""
        asked, now = self.clock.uptime(), self.clock.now()
        clocks = {run_id: self.clock_of(run_id) for run_id in {one.run_id for one in rentals}}
        pressing = any(unordered(one) and unattended(one, now, live_runs, clocks[one.run_id]) for one in rentals)
        found = listings(
            self.providers, rentals, also, self.tell, clock=self.clock, within=PRESSING_S if pressing else LIST_S
        )
        late = self._overdue(rentals, found.shown)
        asked_of = (one for one in rentals if one.provider in found.shown)
        others = {one.tag: other for one in asked_of if (other := self.other_account(one)) is not None}
        return reconcile(
            rentals, found.shown, self.clock.now(), live_runs, known_tags=known_tags, silent=found.silent,
            asked=asked, others=others, clocks=clocks, late=late,
        )  # fmt: skip

    def _overdue(self, rentals: Sequence[Rental], shown: Listing) -> Mapping[str, str]:
        """Why rentals have to end now, no matter who looks after them: by what their providers count as well."""
        late: dict[str, str] = {}
        for run_id in {one.run_id for one in rentals}:
            try:
                late |= self._late(self._counted(self._run(run_id), shown))
            except LedgerError as error:
                self._bear(error, run_id)
        return late

    def overdue(self, run_id: str) -> Mapping[str, str]:
        """The same of one run, after a look at what is counted where nobody has looked for long. Raises LedgerError."""
        run = self._run(run_id)
        if self._sought(run):
            run = self._run(run_id)
        return self._late(self._run(run_id) if self._meter.look(run) else run)

    def _sought(self, run: Run) -> bool:
        """Look for machines that lost answers made and that the process which asked for them has not found: it may
        hang, and a machine without a known number cannot be counted. Whether one was found."""
        now, looks_at = self.clock.now(), self.clock.monotonic()
        lost = [
            one for one in run.open_rentals
            if one.ref is None and now - one.intent_at >= SEEK_AFTER_S
            and looks_at - self._seeks.get(one.tag, -math.inf) >= SEEK_EVERY_S
        ]  # fmt: skip
        if not lost:
            return False
        self._seeks |= {one.tag: looks_at for one in lost}
        found = listings(self.providers, lost, (), self.tell, clock=self.clock, within=LIST_S)
        shown = [(one, seen) for one in lost for seen in found.shown.get(one.provider) or () if shows(seen, one)]
        for one, seen in shown:
            account = self.accounts.of(one.provider).id
            self._note(run.id, Kind.ADOPTED, one.tag, ref=seen.ref, account=account or None)
        return bool(shown)

    def _late(self, run: Run) -> Mapping[str, str]:
        now = self.clock.now() - self.clock_of(run.id).ahead_s
        return {one.tag: why for one in run.open_rentals if (why := overdue(run, one, now))}

    def _run(self, run_id: str) -> Run:
        run = self._soon(lambda: self.ledger.run(run_id))
        self._known |= {one.tag: one for one in run.rentals}
        return run

    def _counted(self, run: Run, shown: Listing) -> Run:
        """The run with what listings show of its traffic and prices."""
        names = {one.provider for one in run.open_rentals}
        listed = {one.ref: one for name in names for one in shown.get(name) or ()}
        noted = [self._meter.note(one, listed[one.ref]) for one in run.open_rentals if one.ref in listed]
        return self._run(run.id) if any(noted) else run

    def other_account(self, rental: Rental) -> OtherAccount | None:
        """Whether it may exist in another account than the one behind the key in use."""
        if rental.account is None:
            return None
        account = self.accounts.of(rental.provider)
        return other_account(rental, account.id, account.why, vouched=self._vouched(rental.tag))

    def _vouched(self, tag: str) -> bool:
        return self.accounts.vouched or tag in self.rented

    def act(self, actions: Sequence[Action], collect: Collect = lambda _order: None) -> bool:
        """Carry out; what fails is recorded and comes up again in the next round. Whether all orders were accepted."""
        accepted = True
        for action in actions:
            match action:
                case Adopt(tag, run_id, ref, provider):
                    account = self.accounts.of(provider).id
                    self._note(run_id, Kind.ADOPTED, tag, ref=ref, account=account or None)
                case Destroy():
                    if action.collect_first:
                        collect(action)
                    if not (action.collect_first and self._over(action)):
                        accepted = self.destroy(action) and accepted
                case MarkAbsent(tag, run_id, asked):
                    self._note(run_id, Kind.SEEN_ABSENT, tag, boot=asked.boot, uptime_s=asked.seconds)
                case ConfirmGone(tag, run_id, ref):
                    self._gone(tag, run_id, ref)
                case Leave() | Orphan():
                    pass
        return accepted

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
        return next((one for one in self._run(run_id).rentals if one.tag == tag), None)

    def destroy(self, order: Destroy) -> bool:
        """Send one order to destroy, whatever the ledger does. What came of it is recorded and told, never raised.

        It is not sent while it might hit a stranger's machine: see ``Proof``.

        An order that fails again and again, for the same reason, is in the ledger once: a key that was revoked would
        fill it for as long as the machine lives.

        Returns:
            Whether it was accepted.
        """
        proven = self._proof.holds(order, self._known.get(order.tag))
        if proven is None:
            return False
        if order.ref not in self._refused:
            self._jot(order, Kind.DESTROY_SENT, reason=order.reason, shown=order.shown)
        if not self._proof.fresh(proven, order.provider):
            return False  # this computer slept, or its ledger was slow
        try:
            self.clock.begin(lambda: self.providers[order.provider].destroy(order.ref)).result(DESTROY_S)
        except (ProviderError, Overdue) as error:
            if self._refused.get(order.ref) != str(error):
                self._refused[order.ref] = str(error)
                self._jot(order, Kind.DESTROY_FAILED, reason=str(error))
            self.tell(Notice(f"Destroying {order.ref}: {error}; trying again.", warning=True))
            return False
        self._refused.pop(order.ref, None)
        self._jot(order, Kind.DESTROY_ACCEPTED)
        return True

    def destroy_unrecorded(self, order: Destroy, *, every_s: float, give_up: Callable[[], bool]) -> bool:
        """Destroy where no ledger says what became of earlier orders: again, until its provider shows it no more.

        For ``UNRECORDED_S`` at most; its end is not confirmed by that. Whether an order was accepted.
        """
        until, accepted = self.clock.monotonic() + UNRECORDED_S, self.destroy(order)
        while not give_up() and self.clock.monotonic() < until:
            self.clock.sleep(every_s)
            try:
                shown = self.clock.begin(lambda: self.providers[order.provider].get(order.ref)).result(PRESSING_S)
            except (ProviderError, Overdue):
                continue
            if accepted and (shown is None or shown.tag != order.tag):
                break
            accepted = self.destroy(order) or accepted
        return accepted

    def _jot(self, order: Destroy, kind: Kind, **data: object) -> None:
        """As ``_note``; even a ledger that is damaged for good does not keep a machine alive."""
        try:
            self._note(order.run_id, kind, order.tag, ref=order.ref, **data)
        except LedgerError as error:
            self.tell(Notice(f"{error}. {error.hint} Ending {order.tag} goes on.", warning=True))

    def _gone(self, tag: str, run_id: str, ref: str | None) -> None:
        rental = self.read(run_id, tag)
        if rental is not None and rental.state.over:
            return  # somebody else has confirmed it
        if rental is not None and rental.account:
            # A service may bind a key to another account at any time, and a rental is closed only once.
            account = self.accounts.afresh(rental.provider)
            other = other_account(rental, account.id, account.why, vouched=self._vouched(tag))
            if other is not None:
                self.tell(Notice(f"{tag} is not closed: {other.reason}.", warning=True))
                return
        charges = None if rental is None or ref is None else self._charges(rental.provider, ref)
        ended_at = self.clock.now() - self.clock_of(run_id).ahead_s  # by the clock that the rental began by
        if charges is not None:
            assert rental is not None
            said = judged(replace(rental, gone_at=ended_at), charges, ended_at)
            self._note(run_id, Kind.CHARGED, tag, charges=said)
        if self._note(run_id, Kind.GONE, tag, ended_at=ended_at):
            self.tell(Gone(ref or "never created", tag))

    def settle(self, rental: Rental) -> bool:
        """Ask again for the bill of a rental that is over, and record what is new; whether it is final now."""
        other = self.other_account(rental)
        if rental.ref is None or (other is not None and other.certain):
            return False
        charges = self._charges(rental.provider, rental.ref)
        if charges is None:
            return False
        said = judged(rental, charges, self.clock.now())
        if said.final or rental.charged is None or rental.charged.total != said.total:
            self.ledger.append(rental.run_id, Kind.CHARGED, tag=rental.tag, charges=said)
        return said.final

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
                accepted = self.act(actions)
                wait = longer(wait) if not accepted or all(isinstance(one, Leave) for one in actions) else every_s
                self.clock.sleep(wait)


def longer(wait: float) -> float:
    """The pause after one of ``wait`` seconds in which nothing could be done."""
    return min(MOST_S, wait * 2)


def _unconfirmed(rental: Rental | None, tag: str) -> InDoubt:
    name = tag if rental is None else f"{rental.provider}:{rental.ref or rental.tag}"
    who = "Nobody" if rental is None else rental.provider
    return InDoubt(
        f"{who} has not confirmed the end of {tag if rental is None else rental.ref or tag}.", refs=(name,),
        hint="Run `gpurent reap` until it says that nothing is left.",
    )  # fmt: skip
