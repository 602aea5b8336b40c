"""The eye on money and time while a rental lives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

from gpurent.budget.errors import LedgerError
from gpurent.budget.guard import Deadlines, end_reserve
from gpurent.budget.ledger import Ledger
from gpurent.budget.spend import accrued, run_spent
from gpurent.budget.state import RentalState, Run
from gpurent.clock import Clock
from gpurent.errors import GpurentError, HostUnreachable
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.lifecycle import Decision, Facts, Machine, Step, next_step
from gpurent.jobs.progress import Notice, Progress, Spending
from gpurent.jobs.waits import GLANCE_S
from gpurent.money import ZERO, Usd, per_hour
from gpurent.tasks import Overdue, Task

Tell = Callable[[Progress], None]


def silent(_progress: Progress) -> None:
    """For a caller who wants to hear nothing."""


TICK_S = 1.0
AGAIN_S = 10.0
"""Until the next look at a ledger that did not answer."""
ROUSE_S = 30.0


class Halt(GpurentError):
    """Unwind to teardown at once; ``leave`` means without teardown."""

    def __init__(self, message: str, *, leave: bool = False, budget: bool = False) -> None:
        super().__init__(message)
        self.leave = leave
        self.budget = budget


@dataclass
class Watch:
    """Reports the spending about once a second and says when to stop.

    ``tick`` may be called as often as one likes, from any loop and any transfer callback.
    """

    ledger: Ledger
    run_id: str
    deadlines: Deadlines
    clock: Clock
    interrupt: Interrupt
    tell: Tell
    reserve: Usd = ZERO
    """What destroying may cost: money that training must not touch, whatever the deadlines say."""
    hourly: Usd = ZERO
    tag: str = ""
    """Of the rental, where the run may have others."""
    allowance: Usd | None = None
    """What this rental may cost, where the budget is shared with others that are open."""
    state: RentalState = RentalState.CREATED
    """As far as it matters here: whether there is training to save."""
    rouse: Callable[[], None] = lambda: None
    """Sees to it that this computer's watchdog lives."""
    meter: Callable[[Run], bool] = lambda _run: False
    """Looks at what the provider counts, when it is time to; whether that changed the ledger. It may take its time."""
    counted: Callable[[Run], Run] = lambda run: run
    """The run with what those looks showed, should the ledger not have it."""
    said: SimpleQueue[Progress] = field(default_factory=SimpleQueue)
    """Where it leaves what it has to say."""
    _due: float = field(default=0.0, init=False)
    _rouse_due: float = field(default=0.0, init=False)
    _left: Usd | None = field(default=None, init=False)
    _patient: bool = field(default=False, init=False)
    _counting: Task[bool] | None = field(default=None, init=False)
    _kept: Run | None = field(default=None, init=False)
    """The run as the ledger last had it: it goes on to cost money while the ledger cannot be read."""

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """While this block runs, nothing but a user who leaves ends anything."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def tick(
        self, machine: Machine = Machine.UNASKED, *, silent_s: float = 0.0, patience_s: float = math.inf
    ) -> Decision:
        """Decide, and report if a second has passed; what comes back is ``GO_ON`` or ``SAVE``.

        Raises:
            Halt: the user or the budget ends it.
            HostUnreachable: the machine is gone, was stopped, or was silent for longer than ``patience_s``.
        """
        if self._patient:
            if self.interrupt.level >= Stop.LEAVE:
                raise Halt("left running at your wish", leave=True)
            return Decision(Step.GO_ON)
        if self.clock.monotonic() >= self._due:
            self._due = self.clock.monotonic() + TICK_S
            self._report()
        saving = per_hour(self.hourly, max(0, round((self.deadlines.hard - self.deadlines.soft) * 1000)))
        decision = next_step(
            self.state,
            Facts(
                now=self.clock.now(),
                soft=self.deadlines.soft,
                hard=self.deadlines.hard,
                wish=self.interrupt.level,
                left=self._left,
                reserve=self.reserve,
                saving=saving,
                machine=machine,
                silent_s=silent_s,
                patience_s=patience_s,
            ),
        )
        if decision.step in (Step.GO_ON, Step.SAVE):
            return decision
        if decision.cause == "machine":
            raise HostUnreachable(decision.why)
        raise Halt(decision.why, leave=decision.step is Step.LEAVE, budget=decision.cause == "budget")

    def affords(self, seconds: float, cost: Usd) -> bool:
        """Whether so much more time and money lies between now and what ending the machine may take."""
        spent = per_hour(self.hourly, round(seconds * 1000)) + cost
        return (
            self.clock.now() + seconds < self.deadlines.hard
            and self._left is not None
            and self._left - spent > self.reserve
        )

    def _report(self) -> None:
        if self.clock.monotonic() >= self._rouse_due:
            self._rouse_due = self.clock.monotonic() + ROUSE_S
            self.rouse()
        self._kept = self._read() or self._kept
        if self._kept is not None and self._count(self._kept):
            self._kept = self._read() or self._kept
        if self._kept is None:
            return
        run = self.counted(self._kept)
        own = [one for one in run.open_rentals if self.allowance is None or one.tag == self.tag]
        for rental in own:  # a machine may turn out dearer than its offer
            self.hourly, self.reserve = max(self.hourly, rental.hourly), max(self.reserve, end_reserve(rental))
        if run.stop_requested:
            self.interrupt.request(Stop.ORDERLY)
        spent = run_spent(run, self.clock.now())
        self._left = run.budget - spent
        if self.allowance is not None:
            cost = Usd.total([accrued(one, self.clock.now()) for one in run.rentals if one.tag == self.tag])
            self._left = min(self._left, self.allowance - cost)
        self.tell(Spending(spent, run.budget, self.deadlines.soft, self.deadlines.hard))

    def _read(self) -> Run | None:
        """The run as the ledger has it; None, which is told, where it does not say so at once."""
        try:
            return self.clock.begin(lambda: self.ledger.run(self.run_id)).result(GLANCE_S)
        except Overdue:
            self._due = self.clock.monotonic() + AGAIN_S
            self.tell(Notice("The ledger is slow to answer. The deadlines hold all the same.", warning=True))
        except LedgerError as error:
            if not error.passing:
                raise
            self.tell(Notice(f"{error}. {error.hint} The deadlines hold all the same.", warning=True))
        return None

    def _count(self, run: Run) -> bool:
        """Have what the provider counts looked at beside; whether a look has ended that changed the ledger."""
        if self._counting is None:
            self._counting = self.clock.begin(lambda: self.meter(run))
        changed = False
        if self._counting.over:
            counting, self._counting = self._counting, None
            changed = counting.result(0.0)
        while not self.said.empty():
            self.tell(self.said.get())
        return changed
