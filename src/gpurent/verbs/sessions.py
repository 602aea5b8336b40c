"""Sessions: what ``Broker.session`` does, and what it returns: jobs after each other on one machine, in one budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self

from gpurent.clock import SystemClock
from gpurent.dataset.content import contents
from gpurent.dataset.job import Job
from gpurent.errors import BudgetReached, InDoubt, Interrupted, NoOffer, UsageError
from gpurent.jobs.desk import Choice, Desk, Ticket
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.keeping import LOOK_S, Keeper
from gpurent.jobs.options import RunOptions, SessionOptions
from gpurent.jobs.session import Outcome
from gpurent.jobs.signals import pressed_in_a_program
from gpurent.jobs.watch import Tell, silent
from gpurent.model import Need, Workload
from gpurent.money import Usd
from gpurent.plan import together
from gpurent.plan.leftover import idle_cost
from gpurent.plan.quote import Quote, QuoteRow, affordable_rows
from gpurent.report.receipt import make_receipt
from gpurent.report.session import SessionStatus, kept, session_status
from gpurent.tasks import Task
from gpurent.verbs.quoting import Quoting
from gpurent.verbs.resources import Resources
from gpurent.verbs.running import Caller, Running, Trained
from gpurent.verbs.training import require_money

CLOSE_S = 3600.0
"""How long the end of a session is waited for; every step of it has an end of its own, far before."""


@dataclass(eq=False)
class Session:
    """What ``Broker.session`` returns. Leaving its block terminates the machine at once."""

    run_id: str
    """In the ledger; ``gpurent session status`` and ``gpurent receipt`` know it by this."""
    _keeper: Keeper = field(repr=False)
    _began: Task[Outcome] = field(repr=False)
    _interrupt: Interrupt = field(repr=False)
    _consent: Callable[[Quote, QuoteRow], bool] | None = field(default=None, repr=False)
    _base_model: str | None = field(default=None, repr=False)
    """Of the session; set by its first job where the user named none."""
    _grids: bool = field(default=True, repr=False)
    """Whether a grid is drawn of each job."""
    _files: dict[Path, str] = field(default_factory=dict, init=False, repr=False)
    """Which job has written, or is to write, what."""
    _lock: RLock = field(default_factory=RLock, init=False, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def left(self) -> Usd:
        """Of the budget, by now."""
        return self.status().left

    @property
    def over(self) -> bool:
        """Whether it has ended, by whatever: nothing is trained any more."""
        return self._began.over

    def status(self) -> SessionStatus:
        """Where the session stands: its machine, its money, its jobs."""
        one = self._keeper.conductor
        return session_status(one.ledger.run(self.run_id), one.clock.now())

    def train(self, job: Job, *, tell: Tell = silent) -> Trained:
        """Train one more job, on the session's machine if there is one, and bring its files home.

        The first job rents the machine, and so does one that comes after the idle limit or after a machine was lost.
        Ctrl-C saves, brings home what was trained, and ends the session.

        Args:
            job: from ``Job.from_config``; on the session's base model, with an ``output_name`` of its own.
            tell: hears what happens while it is this job's turn.

        Returns:
            As ``Broker.train``: the files of this job alone, and in ``share`` its part of the bill so far.

        Raises:
            UsageError: the session is closed, the job has another base model, writes the files of an earlier one, or
                does not fit the machine. The session stays open.
            BudgetError, NoOffer: it does not fit in what is left; the hint says what would. The session stays open.
            JobFailed: by its own fault; the session stays open.
            BudgetReached, Interrupted, InDoubt: the session is over.
        """
        job = job if self._grids else job.without_grid()
        with self._lock:
            self._refuse(job)
            files = [job.output_dir / name for name in sorted(job.expected.planned)]
            self._files |= dict.fromkeys(files, job.name)
        trained = False
        try:
            ticket = Ticket(job, contents([job])[0], tell, self._agreed(job))
            self._wait(ticket)
            trained = True
        finally:
            if not trained:
                with self._lock:
                    for path in files:
                        self._files.pop(path, None)
        return self._trained(ticket)

    def _trained(self, ticket: Ticket) -> Trained:
        one, outcome, name = self._keeper.conductor, ticket.outcome, ticket.job.name
        run = one.ledger.run(self.run_id)
        ids = {job.id for rental in run.rentals for job in rental.jobs if job.name == name}
        receipt = make_receipt(run, one.clock.now())
        return Trained(
            self.run_id,
            files=tuple(file.path for file in run.loras if file.job_id in ids),
            final_loss=outcome.final_loss,
            stopped=outcome.stopped,
            receipt=receipt,
            state=outcome.state,
            grid=outcome.grid,
            share=next((share for share in receipt.jobs if share.name == name), None),
        )

    def _refuse(self, job: Job) -> None:
        """What is wrong with a job before anything is asked. Raises UsageError."""
        if self._keeper.desk.closed:
            raise UsageError(
                f"{job.name} is not begun: {self._keeper.desk.closed}.", hint="`Broker.session` opens another one."
            )
        base = base_of(job)
        if self._base_model not in (None, base):
            raise UsageError(
                f"{job.name} trains on {base}, and this session on {self._base_model}",
                hint="A session keeps one base model. Open another session for it, or train it with `Broker.train`.",
            )
        twins = {
            name
            for path, name in self._files.items()
            if path.name in job.expected.planned and path.parent == job.output_dir
        }
        if twins:
            raise UsageError(
                f"{job.name} would replace the files of {', '.join(sorted(twins))}, which this session has trained",
                hint="Give it an output_name of its own, as `Job.from_config(path, name=...)` or `--name` does.",
            )
        self._base_model = base

    def _agreed(self, job: Job) -> Choice | None:
        """Offers for the machine that has to be rented; None where there is one. Raises NoOffer, Interrupted."""
        one = self._keeper.conductor
        if one.ledger.run(self.run_id).open_rentals or self._keeper.desk.busy:
            return None
        choice = self._keeper.choose(job, self._keeper.left())
        if self._consent is not None and not self._consent(choice.quote, choice.rows[0]):
            raise Interrupted(f"{job.name} is not begun, and nothing was rented for it.")
        return choice

    def _wait(self, ticket: Ticket) -> None:
        self._keeper.desk.hand_in(ticket)
        clock = self._keeper.conductor.clock
        with pressed_in_a_program(self._interrupt):
            while not ticket.over:
                clock.sleep(LOOK_S)
        if ticket.error is not None:
            raise ticket.error

    def close(self, *, save: bool = False) -> None:
        """Terminate the machine at once, and close the run; of a session that is closed, nothing.

        Args:
            save: let a job that trains just now, for another thread, save and bring home what it has.

        Raises:
            InDoubt: something may still run; ``gpurent reap`` goes on with it.
        """
        desk = self._keeper.desk
        desk.close("the session is closed")
        if desk.busy:
            self._interrupt.request(Stop.ORDERLY if save else Stop.NOW)
        try:
            self._ended()
        except (Interrupted, BudgetReached):
            return  # who waited for a job was told

    def _ended(self) -> None:
        """Wait for the end; raises what it ended with. Leaving this wait early abandons nothing."""
        clock = self._keeper.conductor.clock
        until = clock.monotonic() + CLOSE_S
        with pressed_in_a_program(self._interrupt):
            while not self._began.over:
                if clock.monotonic() >= until:
                    hint = f"`gpurent status` shows what runs, `gpurent stop {self.run_id}` ends it."
                    raise InDoubt("The session has not ended.", refs=(self.run_id,), hint=hint)
                clock.sleep(LOOK_S)
        self._began.result(0.0)


@dataclass(frozen=True)
class Sessions:
    """Opens sessions."""

    resources: Resources
    quoting: Quoting
    running: Running

    def open(
        self,
        need: Need | None,
        base_model: str | Path | None,
        *,
        budget: Usd,
        options: RunOptions,
        session: SessionOptions,
        consent: Callable[[Quote, QuoteRow], bool] | None,
        tell: Tell,
    ) -> Session:
        """As ``Broker.session``."""
        require_money(budget)
        base = None if base_model is None else named(base_model)
        resources = self.resources
        resources.require_providers()
        wanted = need or options.need or resources.settings.need.as_need()
        play, order = self.quoting.plays, self.running.order(wanted.disk_gb, options)
        run_id = self.running.reserve(
            "session",
            budget,
            output_dir=Path.cwd(),
            config={"play": play, "path": "", "jobs": {}, "session": kept(session.idle_s, wanted), **order.kept},
        )
        desk, clock = Desk(tell), resources.clock
        wish = Interrupt(clock if isinstance(clock, SystemClock) else None)

        def choose(job: Job | Workload, left: Usd) -> Choice:
            waiting_s = 0.0 if resources.ledger.run(run_id).rentals else session.idle_s
            return _choice(self.quoting, job, wanted, left, play=play, idle_s=waiting_s)

        keeper = Keeper(
            self.running.conductor(run_id, Caller(desk.said), wish),
            desk,
            choose,
            order=order,
            need=wanted,
            idle_s=session.idle_s,
            max_hours=resources.settings.budget.max_hours if options.max_hours is None else options.max_hours,
            linger_s=session.linger_s,
        )
        grids = resources.settings.job.grid if options.grid is None else options.grid
        began = clock.begin(keeper.run)
        return Session(run_id, keeper, began, wish, _consent=consent, _base_model=base, _grids=grids)


def _choice(quoting: Quoting, job: Job | Workload, need: Need, left: Usd, *, play: bool, idle_s: float) -> Choice:
    """Offers for a job, and for waiting ``idle_s`` seconds after it, within ``left``; of play money, or of real money.

    Raises:
        NoOffer: nothing fits; the message names the job.
    """
    loads = (job.workload if isinstance(job, Job) else job,) * 2
    wanted = replace(need, min_ram_mb=need.min_ram_mb or together.ram_mb(loads))  # the base model is kept
    try:
        found = quoting.quote(job, wanted, left)
        rows = [one for one in affordable_rows(found, left) if (one.offer.provider in found.play) is play]
    except NoOffer as error:
        raise NoOffer(f"{loads[0].name} is not begun: {error}", hint=error.hint, enough=error.enough) from error
    fit = tuple(one for one in rows if one.asks + idle_cost(one.hourly, idle_s) <= left)
    if not fit:
        best = min(rows, key=lambda one: one.asks + idle_cost(one.hourly, idle_s), default=None)
        if best is None:
            raise NoOffer(f"{loads[0].name} is not begun: no offer is left for the session's kind of money")
        waiting = idle_cost(best.hourly, idle_s)
        enough = (best.asks + waiting).rounded()
        raise NoOffer(
            f"{left.rounded()} pay for {loads[0].name} on {best.offer.gpu} at {best.offer.provider}, and not for "
            f"waiting {idle_s / 60:.0f} min after it as well, which costs {waiting.rounded(4)}",
            hint=f"A budget of {enough} is enough, or a shorter idle limit.",
            enough=(best.asks + waiting).micros,
        )
    return Choice(found, fit)


def base_of(job: Job) -> str:
    """What a job's base model is told apart by: its path, or its name on a hub."""
    path = getattr(job.base_model, "path", None)
    return str(job.base_model_id if path is None else Path(path).resolve())


def named(base_model: str | Path) -> str:
    """A base model as ``base_of`` has it: what exists is a path. Raises UsageError for a path that does not."""
    path = Path(base_model).expanduser()
    if not path.exists() and (isinstance(base_model, Path) or base_model.startswith((".", "/", "~"))):
        raise UsageError(f"there is no base model at {path.absolute()}", hint="Name a path that exists, or a hub id.")
    return str(path.resolve()) if path.exists() else str(base_model)
