"""The thread of a session: it rents for the first job, keeps the machine for the next, and ends it when none comes.

One run of the ledger, one client lock, one budget. A machine is rented when a job needs it. In between it waits for as
long as the idle limit and the money allow; its own dead-man switch has the same end, should this client die.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gpurent.budget.errors import BudgetError, LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.spend import run_spent
from gpurent.budget.state import RentalState
from gpurent.dataset.increments import increments
from gpurent.dataset.job import Job
from gpurent.errors import GpurentError, HostUnreachable, InDoubt, Interrupted, UsageError
from gpurent.jobs.conduct import MAX_ATTEMPTS, Conductor
from gpurent.jobs.desk import Choice, Desk, Ticket
from gpurent.jobs.interrupt import Stop
from gpurent.jobs.progress import JobOver, Notice
from gpurent.jobs.rental import LaunchOrder
from gpurent.jobs.resuming import rest_of
from gpurent.jobs.session import Outcome
from gpurent.jobs.shelf import Shelf
from gpurent.jobs.watch import Halt
from gpurent.jobs.work import MOST_TRIES, Standing, Task, TaskState, Work, kept
from gpurent.model import Need, Workload
from gpurent.money import Usd, per_hour
from gpurent.plan import line
from gpurent.plan.leftover import fitting_steps, idle_cost, idle_until
from gpurent.plan.quote import QuoteRow, make_quote
from gpurent.tasks import minding

LOOK_S = 0.2
"""Between two looks for a job."""
ASK_S = 2.0
"""Between two looks into the ledger whether the session is to be closed."""
SIGN_S = 300.0
"""Between two signs of life of a session without a job: others hold a client for dead that is silent for longer."""
BEAT_S = 5.0
"""Between two tries to reach a machine that waits."""
ENGINE_S = 60.0
"""The engine's process outlives the idle limit by so much: it never ends while a job may come."""
MOST_ENGINE_S = 3600.0
LEAST_HOURS = 24.0
"""For which a machine may be kept where neither a limit of the user nor the budget ends it before."""


class _Called(Exception):
    """A job has come, or the session is closed, while the machine was slow to answer."""


@dataclass
class _ForOne(Shelf):
    """Offers for one job: once that is over, whatever else was on the lost machine is quoted by itself."""

    task: Task | None = None

    def take(self) -> tuple[int, QuoteRow] | None:
        """As ``Shelf``."""
        return super().take() if self.task is not None and self.task.state is TaskState.WAITING else None


@dataclass
class Keeper:
    """Serves the desk until it is closed."""

    conductor: Conductor
    desk: Desk
    choose: Callable[[Job | Workload, Usd], Choice]
    """Offers for a job within an amount. Raises NoOffer."""
    order: LaunchOrder
    need: Need
    idle_s: float
    max_hours: float | None = None
    linger_s: float | None = None
    """A session without a machine is closed after so long; None: it stays open."""
    _count: int = field(default=0, init=False)
    _open: list[Ticket] = field(default_factory=list, init=False)
    """Whose jobs are on the machine, or to be."""
    _work: Work = field(default_factory=lambda: Work(()), init=False)
    _stopped: bool = field(default=False, init=False)
    """The budget or the user ended a job early."""
    _sign_due: float = field(default=float("-inf"), init=False)
    _ask_due: float = field(default=float("-inf"), init=False)
    _beat_due: float = field(default=float("-inf"), init=False)

    def run(self) -> Outcome:
        """To the end of the session. Raises as ``Conductor.train`` what ended it early."""
        try:
            outcome = self.conductor.conduct(self._serve)
        except GpurentError as error:
            self.desk.end(error)
            raise
        except BaseException as error:
            self.desk.end(InDoubt(f"the session broke: {type(error).__name__}: {error}", hint="`gpurent reap`."))
            raise
        self.desk.end(Interrupted("the session is closed"))
        return outcome

    def left(self) -> Usd:
        """Of the budget, by now."""
        run = self.conductor.ledger.run(self.conductor.run_id)
        return max(Usd(0), run.budget - run_spent(run, self.conductor.clock.now()))

    def _serve(self) -> Outcome:
        try:
            while (ticket := self._next()) is not None:
                self._with_machines(ticket)
        except Halt as halt:
            if halt.leave or halt.budget or any(not one.over for one in self._open):
                raise
        finally:
            self.conductor.say_how_to_go_on()
        return Outcome(finished=True, stopped=self._stopped)

    def _next(self) -> Ticket | None:
        """Wait without a machine, which costs nothing."""
        clock, since = self.conductor.clock, self.conductor.clock.monotonic()
        while True:
            if (ticket := self.desk.take()) is not None:
                return ticket
            if self.desk.closed or self.conductor.interrupt.level >= Stop.ORDERLY or self._asked_to_close():
                return None
            if self.linger_s is not None and clock.monotonic() - since >= self.linger_s:
                self._tell(f"No job came for {self.linger_s / 60:.0f} min: the session is closed.")
                return None
            self._sign()
            clock.sleep(LOOK_S)

    def _asked_to_close(self) -> bool:
        """Whether somebody else has asked for it, through the ledger."""
        now = self.conductor.clock.monotonic()
        if now < self._ask_due:
            return False
        self._ask_due = now + ASK_S
        try:
            return self.conductor.ledger.run(self.conductor.run_id).stop_requested
        except LedgerError as error:
            if not error.passing:
                raise
            self._tell(str(error), warning=True)
            return False

    def _with_machines(self, ticket: Ticket) -> None:
        """Rent for one job; the machine then serves all that come."""
        task = self._task(ticket)
        self._open = [ticket]
        try:
            choice = self._choice(ticket, task)
            begun = len(self.conductor.ledger.run(self.conductor.run_id).rentals)
            self._work = Work(
                [task],
                batch=True,
                comes=self._comes,
                least_hours=LEAST_HOURS,
                engine_idle_s=min(MOST_ENGINE_S, self.idle_s + ENGINE_S),
            )
            shelf = _ForOne(list(choice.rows), begun + MAX_ATTEMPTS, begun, task=task)
            order = replace(self.order, ram_mb=choice.quote.need.min_ram_mb)
            self.conductor.rent(self._work, shelf, order, self.max_hours)
        except (Halt, InDoubt):
            self._settle(None)
            raise
        except GpurentError as error:
            self._settle(None)
            if ticket in self._open:
                self._over(ticket, error)
        else:
            self._settle(None)
            if ticket in self._open:
                self._over(ticket, BudgetError(f"{task.job.name} is not begun: {task.short or 'no machine took it'}"))
        for other in reversed(self._open):
            self.desk.back(other)
        self._open = []

    def _task(self, ticket: Ticket) -> Task:
        """Number a job, and write down what somebody has to know who takes the session over."""
        if ticket.task is None:
            self._count += 1
            ticket.task = Task(ticket.job, self._count, ticket.content)
            plan = kept(ticket.task)
            self.conductor.ledger.append(self.conductor.run_id, Kind.JOB_ADDED, name=ticket.job.name, plan=plan)
        ticket.task.planned = None
        return ticket.task

    def _choice(self, ticket: Ticket, task: Task) -> Choice:
        """What the user has agreed to, or else a quote for what is left of the job and of the money."""
        if ticket.choice is not None:
            choice, ticket.choice = ticket.choice, None
            return choice
        task.quoted_from = 0 if task.resume is None else task.resume.step
        return self.choose(rest_of(task.job, task.resume, None), self.left())

    def _comes(self, machine: Standing) -> bool:
        """Wait for a job, on a machine that has none. False: the machine is to end."""
        self._settle(machine)
        watch, clock = machine.watch, self.conductor.clock
        watch.state = RentalState.REACHABLE  # nothing on it is worth saving
        if self._admit(machine):
            return True
        if self.desk.closed or self.conductor.interrupt.level >= Stop.ORDERLY:
            return False
        until = idle_until(clock.now(), self.idle_s, watch.deadlines.soft - 2 * LOOK_S)
        self._begin_waiting(machine, until)
        guard = machine.guard
        hard = None if guard is None else guard.hard
        while not self.desk.closed and clock.now() < until:
            if self._admit(machine):
                if self._signed:
                    self.conductor.ledger.append(self.conductor.run_id, Kind.IDLE_OVER, tag=machine.held.tag)
                if guard is not None and hard is not None:
                    guard.ends(hard)
                return True
            if not self._in_touch(machine, until):
                self._tell("The machine is gone; the next job rents another one.", warning=True)
                return False
            self._sign(machine, until)  # after the switch was told: who reads it here may rely on that
            clock.sleep(LOOK_S)
        if not self.desk.closed:
            self._say_why_it_ends(machine, until)
        return False

    def _begin_waiting(self, machine: Standing, until: float) -> None:
        if (seconds := until - self.conductor.clock.now()) <= 0:
            return
        cost = idle_cost(machine.watch.hourly, seconds).rounded(4)
        self._tell(f"The machine waits for the next job, for {_span(seconds)} at most, which cost {cost}.")
        self._sign_due = self._beat_due = float("-inf")

    def _say_why_it_ends(self, machine: Standing, until: float) -> None:
        if until < machine.watch.deadlines.soft - 3 * LOOK_S:
            self._tell(f"No job came for {_span(self.idle_s)}: the machine is terminated; the next one rents again.")
        else:
            self._tell("The time that the budget pays for is over: the machine is terminated.", warning=True)

    def _in_touch(self, machine: Standing, until: float) -> bool:
        """Show the machine that we live, and have it end itself soon after ``until`` otherwise; False if it is gone."""
        guard, now = machine.guard, self.conductor.clock.monotonic()
        if guard is None or now < self._beat_due:
            return True
        first, self._beat_due = self._beat_due < 0, now + BEAT_S
        hard, grace_s = machine.watch.deadlines.hard, self.conductor.rentals.patience.idle_grace_s
        try:
            with minding(self._unless_called):
                guard.ends(lambda: min(hard, until + grace_s)) if first else guard.beat()
        except _Called:
            self._beat_due = float("-inf") if first else self._beat_due
        except HostUnreachable as error:
            self._beat_due = float("-inf") if first else self._beat_due
            self._tell(f"The machine does not answer while it waits: {error}", warning=True)
            return self.conductor.rentals.exists(machine.held)
        return True

    def _unless_called(self) -> None:
        if self.desk.called:
            raise _Called

    @property
    def _signed(self) -> bool:
        """Whether the wait that is on was written down."""
        return self._sign_due > float("-inf")

    def _sign(self, machine: Standing | None = None, until: float | None = None) -> None:
        """A sign of life, for computers that share the ledger."""
        now = self.conductor.clock.monotonic()
        if now >= self._sign_due:
            self._sign_due = now + SIGN_S
            tag = None if machine is None else machine.held.tag
            self.conductor.ledger.append(self.conductor.run_id, Kind.IDLE, tag=tag, until=until)

    def _admit(self, machine: Standing) -> bool:
        """Take what waits at the desk; whether any of it may be trained on this machine."""
        took = False
        while (ticket := self.desk.take()) is not None:
            jobs = [one.job for one in self._work.tasks]
            load, offer = increments([*jobs, ticket.job])[-1], machine.held.offer
            # how long it may be kept is a question of its deadlines, which are asked before each job
            quote = make_quote((load,), self.need, [replace(offer, max_duration_s=None)])
            if not quote.rows:
                why = quote.rejected[0].reason if quote.rejected else "it does not fit"
                hint = "Close the session, and open one with a larger machine: its first job, or [need], decides."
                ticket.end(UsageError(f"{ticket.job.name} cannot be trained on this {offer.gpu}: {why}.", hint=hint))
                continue
            task = self._task(ticket)
            (planned,) = quote.rows[0].jobs
            task.planned = planned if machine.ways is None else line.forecast(planned, load, machine.ways)
            self._work.tasks = [*self._work.tasks, task]
            self._open.append(ticket)
            took = True
        return took

    def _settle(self, machine: Standing | None) -> None:
        """Tell everybody whose job is over."""
        for ticket in list(self._open):
            task = ticket.task
            assert task is not None
            match task.state:
                case TaskState.DONE | TaskState.STOPPED:
                    self._stopped |= task.state is TaskState.STOPPED
                    self._over(ticket)
                case TaskState.FAILED:
                    self._over(ticket, task.error)
                case TaskState.WAITING if machine is not None and task.short:
                    self._refuse(ticket, task, machine)
                case TaskState.WAITING:
                    pass  # its machine was lost: it goes on with the next one
                case TaskState.LEFT:
                    self._over(ticket, Interrupted(f"{task.job.name} is not begun: {task.why}."))
                case _:
                    self._over(ticket, UsageError(f"{task.job.name} is not begun: {task.why}."))

    def _refuse(self, ticket: Ticket, task: Task, machine: Standing) -> None:
        """A job that no longer fits is named, with what would fit."""
        left_s = machine.watch.deadlines.soft - self.conductor.clock.now()
        hint, steps = "Nothing of it would fit. Open another session for it.", task.job.length.steps
        if task.planned is not None:
            short_s = max(0.0, machine.pace.forecast(task.planned) - left_s)
            more = per_hour(machine.watch.hourly, round(short_s * 1000)).rounded()
            fit = fitting_steps(task.planned, machine.pace, steps, left_s)
            some = f"About {fit} of its {steps} steps would fit: max_train_steps = {fit}." if fit else ""
            hint = f"{some} All of it needs about {more} more: open another session for it.".strip()
        task.left(task.short)
        self.desk.said(JobOver(task.job.name, task.state, task.why))
        self._over(ticket, BudgetError(f"{task.job.name} is not begun: {task.short}", hint=hint))

    def _over(self, ticket: Ticket, error: GpurentError | None = None) -> None:
        self._open.remove(ticket)
        if ticket.task is not None:
            ticket.task.tries = MOST_TRIES  # who waited for it has been told: it is not tried again
        ticket.end(error)

    def _tell(self, message: str, *, warning: bool = False) -> None:
        self.desk.said(Notice(message, warning=warning))


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
