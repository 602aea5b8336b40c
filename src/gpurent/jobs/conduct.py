"""One run from its first intent to its last confirmed end, attempt after attempt. Whatever happens inside, it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from gpurent.budget.client import ClientLock
from gpurent.budget.errors import BudgetError, LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.guard import (
    TEARDOWN_S,
    Deadlines,
    allow_create,
    deadlines,
    promised,
    teardown_reserve,
    tolerated,
)
from gpurent.budget.ledger import Ledger
from gpurent.budget.spend import accrued, run_spent
from gpurent.budget.state import Rental, RentalState, Run
from gpurent.clock import Clock
from gpurent.dataset.content import key
from gpurent.dataset.increments import increments
from gpurent.errors import (
    AuthFailed,
    BadHostData,
    BudgetReached,
    GpurentError,
    HostError,
    HostUnfit,
    HostUnreachable,
    InDoubt,
    Interrupted,
    JobFailed,
    NoCapacity,
    NoCredit,
    NoOffer,
    NotAsOffered,
    OfferGone,
    ProviderError,
    RateLimited,
    SourceChanged,
    TransferFailed,
    UsageError,
)
from gpurent.expected import Expected
from gpurent.exposure import surge_reserve
from gpurent.jobs import basemodel, drawing, lines, postmortem, proof, resuming, scalars, statefile
from gpurent.jobs.ahead import Ahead
from gpurent.jobs.boot import NO_ADDRESS, Held
from gpurent.jobs.deadman import DeadMan
from gpurent.jobs.enforcer import Enforce, Target, nobody_enforces
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.keys import forget_keys
from gpurent.jobs.meter import Meter
from gpurent.jobs.premises import Premises
from gpurent.jobs.progress import JobBegun, JobOver, Notice, Progress, Stage, StageStarted
from gpurent.jobs.purse import Purse
from gpurent.jobs.queue import Queue
from gpurent.jobs.rental import LaunchOrder, Rentals
from gpurent.jobs.replan import Asker, Nobody, Replanner
from gpurent.jobs.serving import EngineServer
from gpurent.jobs.session import Outcome, Session
from gpurent.jobs.shelf import Shelf, machine_of
from gpurent.jobs.watch import Halt, Tell, Watch
from gpurent.jobs.work import MOST_TRIES, Task, TaskState, Work, names, planned
from gpurent.localfiles import private_folder
from gpurent.model import Offer, Price
from gpurent.money import ZERO, Usd
from gpurent.plan import line, needs, together
from gpurent.plan.cost import GB, traffic
from gpurent.plan.drawing import grid_seconds
from gpurent.plan.pace import Pace
from gpurent.plan.quote import QuoteRow
from gpurent.plan.timeline import Timeline
from gpurent.plan.travel import for_offer
from gpurent.plan.waiting import leaving_cost
from gpurent.spi import Facts, Host
from gpurent.tasks import Overdue, minding

MAX_ATTEMPTS = 4
"""Offers tried in one run before it is given up."""
HOSTS_FAULT = (BadHostData, TransferFailed, HostUnfit)
"""What a host did wrong even after training had begun: the job is tried again elsewhere, if the budget allows."""
IMAGE_TRIES = 2
"""Machines after which an image is believed to be at fault: every further one would cost money and have it too."""
MOST_CRASHES, CRASH = 3, "internal"
"""Jobs in a row that end with this code, after which the machine is held for broken."""
MAX_WAIT_S = 30.0
"""Before the next offer, where a service asked for a pause."""
LONGEST = 3.0
"""Without ``max_hours`` a rental ends after so many times the high estimate, or ``Work.least_hours``, whatever the
budget."""
SLOW_HINT = "Raise the budget, or name a base model that machines download by themselves."
TOGETHER_S = 0.5
"""Between two looks whether all machines of a batch have ended."""
END_S = 60.0
"""A machine that its owner takes back is left by so much earlier."""


@dataclass(frozen=True)
class Conductor:
    """Conducts one run. The caller holds no lock and owns no rental: both are taken and given back here."""

    ledger: Ledger
    rentals: Rentals
    clock: Clock
    tell: Tell
    interrupt: Interrupt
    run_id: str
    asker: Asker = field(default_factory=Nobody)
    enforce: Enforce = nobody_enforces
    """Who ends a rental of this run if this thread does not."""
    given_up: Callable[[Run], bool] = lambda _run: False
    """Whether the client of a run that claims a job is gone for good."""

    @property
    def run_dir(self) -> Path:
        """Keys, events and log of the run."""
        return self.rentals.run_dir

    def train(self, work: Work, rows: Sequence[QuoteRow], order: LaunchOrder, max_hours: float | None) -> Outcome:
        """Take offers in order until one becomes a machine that SSH reaches; then train on it, job after job.

        Raises:
            as ``Broker.train``; of a batch, what ended it before any job had brought something home.
        """

        def act() -> Outcome:
            try:
                self._attempts(work, rows, order, max_hours)
            finally:
                self.say_how_to_go_on()
            for task in work.tasks:
                if task.state is TaskState.LEFT:
                    self.tell(JobOver(task.job.name, task.state, task.why))
            return work.outcome

        return self.conduct(act)

    def conduct(self, act: Callable[[], Outcome]) -> Outcome:
        """Have ``act`` done by the one client of the run, and close the run with what came of it."""
        private_folder(self.run_dir)
        with ClientLock(self.run_dir):
            return self._to_its_end(act)

    def rent(self, work: Work, shelf: Shelf, order: LaunchOrder, max_hours: float | None) -> None:
        """Take offers from the shelf until one becomes a machine that trains what waits. Raises as ``train``."""
        self._tried(work, Queue(work, self._claim, self.tell), shelf, order, max_hours, None)

    def take_over(self, rental: Rental, order: LaunchOrder) -> Outcome:
        """Go on with a rental whose client died.

        Raises:
            as ``Broker.attach``.
        """
        with ClientLock(self.run_dir):
            return self._to_its_end(lambda: self._go_on(rental, order))

    def say_how_to_go_on(self) -> None:
        """Name the states that are at home in the end."""
        try:
            kept = resuming.states(self.ledger.run(self.run_id), self.run_dir)
        except (UsageError, LedgerError) as error:
            self.tell(Notice(f"Whether a state came home cannot be said: {error}", warning=True))
            return
        for one in kept:
            which = f" --job {one.name}" if one.number else ""
            where = f"step {one.state.step} of {one.state.steps}"
            self.tell(Notice(f"`gpurent continue {self.run_id}{which}` goes on from {where}."))

    def _to_its_end(self, act: Callable[[], Outcome]) -> Outcome:
        """Close the run in the ledger, and turn how it ended into what the caller gets."""
        try:
            outcome = act()
        except Halt as halt:
            if halt.leave:
                raise InDoubt(
                    "The rental was left running.",
                    refs=tuple(f"{one.provider}:{one.ref or one.tag}" for one in self._open_rentals()),
                    hint=f"`gpurent attach {self.run_id}` takes it over, `gpurent reap` destroys it.",
                ) from halt
            self._close("budget" if halt.budget else "interrupted", 4 if halt.budget else 130)
            raise (BudgetReached if halt.budget else Interrupted)(f"{halt}; nothing runs any more.") from halt
        except BaseException as error:
            if not self._open_rentals():
                self._close("failed", 1)
            if isinstance(error, GpurentError):
                self._explain(error)
            raise
        stopped_by_user = outcome.stopped and self.interrupt.level >= Stop.ORDERLY
        done = "partial" if outcome.partial else "done"
        word = done if not outcome.stopped else "interrupted" if stopped_by_user else "budget"
        word = "paused" if outcome.paused else word
        self._close(word, {"done": 0, "partial": 1, "interrupted": 130, "budget": 4, "paused": 0}[word])
        return outcome

    def _explain(self, error: GpurentError) -> None:
        try:
            found = postmortem.write(self.ledger, self.run_id, self.run_dir, error)
        except (OSError, LedgerError) as unwritten:
            self.tell(Notice(f"No report of this failure could be written: {unwritten}", warning=True))
            return
        error.hint = found.remedy
        self.tell(Notice(f"{found.cause} `gpurent why {self.run_id}` says more; everything is in {self.run_dir}."))

    def _open_rentals(self) -> tuple[Rental, ...]:
        return tuple(self.ledger.run(self.run_id).open_rentals)

    def _close(self, outcome: str, exit_code: int) -> None:
        """Nothing more happens in this run, unless it has other machines that somebody has yet to look after."""
        if self._open_rentals():
            return
        self.ledger.append(self.run_id, Kind.RUN_CLOSED, outcome=outcome, exit_code=exit_code)
        forget_keys(self.run_dir, self.ledger.run(self.run_id))

    def _attempts(self, work: Work, rows: Sequence[QuoteRow], order: LaunchOrder, max_hours: float | None) -> None:
        """Rent until nothing waits any more. Of a batch, what is home stays, whatever ends it."""
        try:
            self._workers(work, rows, order, max_hours)
            for task in work.waiting:
                task.left(task.short or "no machine was left to train it")
        except Halt as halt:
            if halt.leave or not (work.batch and work.gained):
                raise
            work.halt(str(halt))
        except (BudgetError, ProviderError, HostUnreachable, HostUnfit, BadHostData, TransferFailed, NoOffer) as error:
            if not (work.batch and work.gained):
                raise
            self.tell(Notice(f"The batch ends here: {error}", warning=True))
            work.leave(str(error))

    def _workers(self, work: Work, rows: Sequence[QuoteRow], order: LaunchOrder, max_hours: float | None) -> None:
        """One machine after the other; of a batch, several at the same time if that was asked for, each in its thread.

        Raises:
            as ``_tried``, once all of them have ended: what is in doubt, and a user who leaves, come before the rest.
        """
        queue = Queue(work, self._claim, self.tell)
        shelf = Shelf.of(rows, MAX_ATTEMPTS + work.rentals - 1)
        if work.rentals == 1:
            self._tried(work, queue, shelf, order, max_hours, None)
            return
        purse = Purse(self.ledger, self.run_id, self.clock, work.rentals)

        def act() -> BaseException | None:
            try:
                self._tried(work, queue, shelf, order, max_hours, purse)
            except Exception as error:  # noqa: BLE001  raised again in the thread that waits for all
                return error
            finally:
                purse.leave()
            return None

        begun = [self.clock.begin(act) for _ in range(work.rentals)]
        while not all(one.over for one in begun):
            self.clock.sleep(TOGETHER_S)
        errors = [error for one in begun if (error := one.result(0.0)) is not None]
        errors.sort(key=lambda one: not (isinstance(one, InDoubt) or (isinstance(one, Halt) and one.leave)))
        doubtful = errors and (isinstance(errors[0], InDoubt) or (isinstance(errors[0], Halt) and errors[0].leave))
        for error in errors[1:] if doubtful or not work.gained else errors:
            self.tell(Notice(f"One of {work.rentals} machines brought nothing more: {error}", warning=True))
        if errors and (doubtful or work.waiting or not work.gained):
            raise errors[0]

    def _claim(self, task: Task) -> str | None:
        assert task.content is not None
        return self.ledger.claim(self.run_id, key(task.job, task.content), task.job.name, self.given_up)

    def _tried(
        self, work: Work, queue: Queue, shelf: Shelf, order: LaunchOrder, max_hours: float | None, purse: Purse | None
    ) -> None:  # fmt: skip
        last: GpurentError = NoOffer("no offer was left to try")
        while (taken := shelf.take()) is not None:
            number, row = taken
            provider, machine = row.offer.provider, machine_of(row)
            tag = f"gpurent-{self.run_id}-{number}"
            try:
                leaving = leaving_cost(row, shelf.other())
                self._attempt(tag, work, queue, row, order, max_hours, leaving, purse)
                return
            except (NoCredit, AuthFailed) as error:
                last = error
                shelf.closed.add(provider)
            except RateLimited as error:
                last = error
                self.clock.sleep(min(MAX_WAIT_S, error.retry_after or MAX_WAIT_S))
            except (HostError, NotAsOffered) as error:
                rented = [one for one in self.ledger.run(self.run_id).rentals if one.tag == tag]
                broke = self.rentals.broke(provider) if isinstance(error, HostUnreachable) else None
                hosts = isinstance(error, (*HOSTS_FAULT, HostUnreachable))
                if any(one.job_id for one in rented) and not hosts:
                    raise (broke or error) from error
                last = broke or error
                if broke is not None:
                    shelf.closed.add(provider)
                else:
                    shelf.useless.add(machine)
                    self._blame(tag, error)
                if isinstance(error, HostUnfit) and error.trait == NO_ADDRESS:
                    shelf.trusted_first(provider)
                shelf.images += isinstance(error, HostUnfit) and error.image and not self.rentals.facts[provider].owned
                if shelf.images == IMAGE_TRIES:
                    raise
            except BudgetError as error:
                if isinstance(last, (*HOSTS_FAULT, HostUnreachable)):
                    self.tell(Notice(f"No other machine is rented: {error}.", warning=True))
                    raise last from error
                raise
            except (OfferGone, NoCapacity) as error:
                last = error
            finally:
                if purse is not None:
                    purse.settle(tag)
            self.tell(Notice(f"{row.offer.gpu} on {provider}: {last} Trying the next offer.", warning=True))
        raise last

    def _blame(self, tag: str, error: GpurentError) -> None:
        """Remember a machine that failed; one that only had a bad image is as good as any."""
        if any(one.tag == tag for one in self.ledger.run(self.run_id).rentals):
            detail = {"trait": error.trait, "image": error.image} if isinstance(error, HostUnfit) else {}
            self.ledger.append(self.run_id, Kind.MACHINE_FAILED, tag=tag, reason=str(error)[:200], detail=detail)

    def _attempt(
        self, tag: str, work: Work, queue: Queue, row: QuoteRow, order: LaunchOrder, max_hours: float | None,
        leaving: float, purse: Purse | None,
    ) -> None:  # fmt: skip
        first = queue.take(tag, lambda _task: "")
        try:
            if first is None:
                return  # other machines are on all that is left
            allowance = None if purse is None else purse.allot(tag)
            limits = self._limits(work, row, max_hours, allowance)
            if work.gained or work.interrupted:  # what is left of the budget may not be worth a machine
                left_s = limits.soft - self.clock.now() - row.timeline.before_training_s.mid
                first = queue.take(tag, lambda one: _short(Pace().forecast(_estimate(work, one, row)), left_s), first)
            if first is None:
                if work.batch:
                    return
                raise BudgetError(work.tasks[0].short)
            self._on_one(tag, work, queue, row, order, limits, leaving, allowance, first)
        finally:
            if first is not None:
                queue.back(tag, first)

    def _on_one(
        self, tag: str, work: Work, queue: Queue, row: QuoteRow, order: LaunchOrder, limits: Deadlines,
        leaving: float, allowance: Usd | None, first: Task,
    ) -> None:  # fmt: skip
        watch = self._watch(limits, row.hourly, row.offer)
        watch.tag, watch.allowance = tag, allowance
        watch.tick()  # who has asked to stop meanwhile wants no machine
        offer, wanted = row.offer, self._wanted(work, row, order)
        self.tell(StageStarted(Stage.RENT, f"{offer.gpu} on {offer.provider} at {row.hourly.rounded(3)}/h"))
        target = Target(self.run_id, tag, offer.provider, limits.hard)
        with self.enforce(target, self.interrupt) as enforcer, _Ending(self, tag) as ending, minding(watch.tick):
            held = self.rentals.rent(
                self.run_id, tag, offer, order, deadlines=limits, reserved=row.asks, patiently=watch.patiently
            )
            ending.held, enforcer.ref = held, held.ref
            with closing(self.rentals.reach(held, watch, leaving=leaving)) as host:
                host.runtime()
                examining = self.clock.begin(lambda: proof.examine(host, wanted))
                guard = self.rentals.guard(host, offer.provider, limits.hard, order, needed_s=row.timeline.total_s.high)
                if guard is not None and guard.ends_at is not None:
                    limits = watch.deadlines = limits.ending(guard.ends_at)
                self.tell(StageStarted(Stage.PROVE, "looking at GPU, driver, memory and disk"))
                try:
                    found = examining.result(proof.EXAMINE_S + proof.GRACE_S)
                except Overdue as error:
                    raise HostUnreachable(f"it does not say what it is: {error}") from error
                if (unfit := proof.verdict(found, offer, wanted)) is not None:
                    raise unfit
                machine = _Machine(host, held, watch, guard)
                measured = self._measured(work, row, machine, found.read_mbps, leaving)
                self._jobs(work, queue, measured, order, machine, first)

    def _measured(
        self, work: Work, row: QuoteRow, machine: _Machine, hub_mbps: float | None, leaving: float
    ) -> QuoteRow:  # fmt: skip
        """The row with what the machine's line carries in place of what was offered.

        Raises:
            HostUnfit: that is far less, by the machine's fault, and going elsewhere costs less than staying.
            BudgetError: the job's files would not be there before the money ends.
        """
        facts = self.rentals.facts.get(row.offer.provider, Facts())
        slow = any(one.trait == line.TRAIT for one in self.ledger.run(self.run_id).rentals)
        home = None if facts.play_money or facts.owned else self.run_dir.parent.parent
        ways = lines.measure(machine.host, hub_mbps, home, self.clock, tell=self.tell)
        machine.premises.traffic.bytes_in += ways.line.up_bytes
        machine.premises.traffic.bytes_out += ways.line.down_bytes
        self.tell(Notice(f"The line carries {line.told(ways, row.offer)}."))
        loads = increments([task.job for task in work.tasks])
        what = f"{row.offer.gpu} at {row.offer.provider}: {line.told(ways, row.offer)}"
        waiting = [
            (row.jobs[place], loads[place]) for place, task in enumerate(work.tasks) if task.state is TaskState.WAITING
        ]
        # a second machine that shows the same shows that it is not the machine
        if not slow and (why := line.too_slow(waiting, ways, row.hourly, leaving)):
            raise HostUnfit(line.TRAIT, f"{what}; {why}", hint=proof.NEXT_HINT)
        jobs = tuple(line.forecast(one, load, ways) for one, load in zip(row.jobs, loads, strict=True))
        machine.ways = ways
        watch, finish_s = machine.watch, [max(one.collect_s.high for one in each) for each in (row.jobs, jobs)]
        late_s = max(0.0, finish_s[1] - finish_s[0])
        watch.deadlines = replace(watch.deadlines, soft=watch.deadlines.soft - late_s)
        if not work.batch and (
            why := line.too_late(
                _estimate(work, work.tasks[0], replace(row, jobs=jobs)), watch.deadlines.soft - self.clock.now()
            )
        ):
            if slow:
                raise BudgetError(f"{what}; {why}", hint=SLOW_HINT)
            raise HostUnfit(line.TRAIT, f"{what}; {why}", hint=proof.NEXT_HINT)
        return replace(row, jobs=jobs, timeline=together.joined(jobs))

    def _jobs(
        self, work: Work, queue: Queue, row: QuoteRow, order: LaunchOrder, machine: _Machine, first: Task
    ) -> None:  # fmt: skip
        """Train what waits, one job after the other, each home before the next one begins.

        Raises:
            JobFailed, SourceChanged: the only job of a run gave up.
            HostError, Halt: the machine is to end now.
        """
        pace, tag, crashed = machine.pace, machine.held.tag, list[Task]()
        if work.batch:
            machine.premises.server = EngineServer(tag, work.engine_idle_s)

        def left_s() -> float:
            return machine.watch.deadlines.soft - self.clock.now() if work.batch else math.inf

        def short(task: Task) -> str:
            return _short(pace.forecast(_estimate(work, task, row)), left_s())

        task = queue.take(tag, short, first)
        while task is not None:
            begun = self.clock.monotonic()
            machine.ahead = self._ahead(work, task, machine, row, pace, left_s())
            behind = (one for one in work.waiting if one is not task)
            machine.kept_s = sum(pace.forecast(_estimate(work, one, row)) for one in behind)
            try:
                self._job(work, queue, task, order, machine)
            except (JobFailed, SourceChanged) as error:
                if not work.batch:
                    raise
                self._give_up(work, task, error)
                if machine.premises.server is not None:
                    machine.premises.server.drop()
                crashed = [*crashed, task] if isinstance(error, JobFailed) and error.code == CRASH else []
            else:
                if task.outcome is not None:
                    pace.took(_estimate(work, task, row), self.clock.monotonic() - begun)
                crashed = []
            finally:
                queue.back(tag, task)
            if work.batch and task.state not in (TaskState.HAD, TaskState.ELSEWHERE):
                self.tell(JobOver(task.job.name, task.state, task.why))
            if task.state is TaskState.STOPPED and (work.rentals == 1 or self.interrupt.level >= Stop.ORDERLY):
                work.leave("the run was stopped before")
            if len(crashed) == MOST_CRASHES:
                raise self._suspected(crashed)
            task = queue.take(tag, short)
            while task is None and work.comes(machine):
                task = queue.take(tag, short)
        if machine.premises.server is not None and self._free(machine.held.offer.provider, machine.held.offer.price):
            machine.premises.server.end(machine.host)  # it is not destroyed, and its memory is wanted

    def _ahead(
        self, work: Work, task: Task, machine: _Machine, row: QuoteRow, pace: Pace, left_s: float
    ) -> Ahead | None:
        """What to send of the next job while this one trains; None where the money left may not pay for both."""
        following = next((one for one in work.waiting if one.number > task.number and not one.owner), None)
        if following is None or following.content is None:
            return None
        needed_s = sum(pace.forecast(_estimate(work, one, row)) for one in (task, following))
        return None if needed_s > left_s else Ahead(following.content.dataset, machine.premises, self.tell)

    def _suspected(self, crashed: Sequence[Task]) -> HostUnfit:
        """Jobs that died one after the other without a word: it may be their machine, and each gets one more try."""
        for task in crashed:
            task.tries += 1
            if task.tries < MOST_TRIES:
                task.state, task.error, task.why = TaskState.WAITING, None, ""
        return HostUnfit("crashes", f"{len(crashed)} trainings in a row died on it")

    def _job(self, work: Work, queue: Queue, task: Task, order: LaunchOrder, machine: _Machine) -> None:
        job, watch = task.job, machine.watch
        run_dir = self.run_dir
        if work.batch:
            self.tell(JobBegun(job.name, task.number, max(task.number, len(work.tasks))))
            run_dir = private_folder(self.run_dir / "jobs" / str(task.number))
            watch.state = RentalState.REACHABLE  # nothing on the machine is worth saving until the engine runs
        replan = self._replanner(order, lambda: watch.deadlines.soft, self.asker)
        session = self._session(
            machine.host, job.output_dir, work.job_id(machine.held.tag, task), machine.held, watch, machine.guard,
            order.hold_s, job.expected, replan, run_dir,
        )  # fmt: skip
        session.hubs, session.premises = order.hubs, machine.premises
        session.resume, session.stop_at = task.resume, work.last_step(task)
        session.ahead = machine.ahead
        if task.resume is not None and (task.begun or work.batch):
            self.tell(Notice(f"{job.name} goes on from step {task.resume.step} of {job.length.steps}."))
        session.scalars = scalars.opened(job.logs, self.run_id, self.tell)
        try:
            engine = session.upload(job, task.content)
            if not session.prepare(job, engine, lambda: queue.confirm(task)):
                return
            outcome = session.follow()
            task.done(outcome)
        except (*HOSTS_FAULT, HostUnreachable) as error:
            self._lost(task, session)
            task.tries += isinstance(error, HOSTS_FAULT)
            if work.batch and task.tries == MOST_TRIES:
                self._give_up(work, task, error)
            raise
        if task.state is TaskState.DONE:
            statefile.forget(run_dir)
        if task.state is TaskState.DONE or outcome.paused:
            seconds = grid_seconds(job.workload, machine.held.offer)
            outcome.grid = drawing.draw(session, job, outcome, seconds, kept_s=machine.kept_s)

    def _lost(self, task: Task, session: Session) -> None:
        """A machine is lost with its job on it: the next one goes on from the newest state that is at home."""
        if session.key:
            task.begun, task.content = True, session.content
        try:
            found = statefile.found(session.run_dir)
        except UsageError as error:
            self.tell(Notice(f"{task.job.name} does not go on from its last state: {error}", warning=True))
            return
        if found is not None and found.key == session.key and found.step > (task.resume.step if task.resume else 0):
            task.resume = found

    def _give_up(self, work: Work, task: Task, error: GpurentError) -> None:
        """A job of a batch failed by its own fault: keep what explains it, and leave it."""
        task.failed(error)
        if work.on_failure == "stop":
            work.leave(f"{task.job.name} failed before, and the batch was to stop then")
        try:
            folder = private_folder(self.run_dir / "jobs" / str(task.number))
            if task.content is not None:
                wanted = key(task.job, task.content)
                self.ledger.append(self.run_id, Kind.JOB_RELEASED, key=wanted, name=task.job.name)
            found = postmortem.write(self.ledger, self.run_id, folder, error)
            self.tell(Notice(f"{task.job.name}: {found.cause} {found.remedy}", warning=True))
        except (OSError, LedgerError) as unwritten:
            self.tell(Notice(f"No report of this failure could be written: {unwritten}", warning=True))

    def _wanted(self, work: Work, row: QuoteRow, order: LaunchOrder) -> proof.Wanted:
        """What a machine must show before anything is sent to it."""
        jobs = [task.job for task in work.waiting]
        loads = increments(jobs)
        return proof.Wanted(
            vram_mb=row.vram_need_mb, ram_mb=together.ram_mb(loads), disk_mb=needs.disk_mb(together.bulk(loads)),
            names=order.hubs.names if any(job.base_target is None for job in jobs) else (),
            url=next(filter(None, (basemodel.sample(job, order.hubs) for job in jobs)), ""),
            gpu=not self._free(row.offer.provider, row.offer.price),
        )  # fmt: skip

    def _free(self, provider: str, price: Price) -> bool:
        """Whether it is a machine of one's own that costs nothing: then it may train on whatever it has."""
        return self.rentals.facts.get(provider, Facts()).owned and price.gpu_hour == ZERO

    def _paid_gpu(self, provider: str, price: Price) -> bool:
        """Whether training on a CPU would be money for nothing. The sandbox's GPUs are simulated: it trains on CPUs."""
        return not self._free(provider, price) and not self.rentals.facts.get(provider, Facts()).play_money

    def _go_on(self, rental: Rental, order: LaunchOrder) -> Outcome:
        if rental.ref is None or rental.job_id is None:
            raise InDoubt("the rental never trained", refs=(rental.tag,), hint="`gpurent reap` ends it.")
        run = self.ledger.run(self.run_id)
        plan = planned(run.config, run.name, run.output_dir, rental.jobs[-1].name)
        run_dir = private_folder(self.run_dir / "jobs" / str(plan.number)) if plan.number else self.run_dir
        identity = self.rentals.connector.load_identity(self.run_dir / "keys" / rental.tag)
        held = Held(self.run_id, rental.tag, rental.ref, rental.offer, identity)
        limits = Deadlines(rental.soft_deadline, rental.hard_deadline)
        watch = self._watch(limits, rental.hourly, rental.offer)
        others = [one for one in run.open_rentals if one.tag != rental.tag]
        if others:
            now = self.clock.now()
            spent = Usd.total([accrued(one, now) for one in run.rentals if one.tag != rental.tag])
            watch.tag = rental.tag
            watch.allowance = run.budget - spent - Usd.total([promised(one, now) for one in others])
        watch.state = RentalState.TRAINING  # what its job made is worth a look, even after an order to destroy
        if rental.state is RentalState.DESTROYING:
            self.interrupt.request(Stop.ORDERLY)  # and no more than a look: it may end at any moment
        target = Target(self.run_id, rental.tag, rental.provider, rental.hard_deadline)
        with (
            self.enforce(target, self.interrupt) as enforcer, _Ending(self, rental.tag, held), minding(watch.tick),
            closing(self.rentals.reach(held, watch, fresh=False)) as host,
        ):  # fmt: skip
            enforcer.ref = rental.ref
            (run_dir / "events.jsonl").unlink(missing_ok=True)
            guard = self.rentals.guard(host, rental.provider, rental.hard_deadline, replace(order, unguarded=True))
            replan = self._replanner(order, lambda: limits.soft, Nobody())
            session = self._session(
                host, plan.output_dir, rental.job_id, held, watch, guard, order.hold_s, plan.expected, replan, run_dir
            )
            session.taken_over, session.key = True, rental.jobs[-1].key
            session.scalars = scalars.opened(plan.logs, self.run_id, self.tell)
            try:
                outcome = replace(session.follow(), partial=self._unfinished())
            except HOSTS_FAULT as error:
                self._blame(rental.tag, error)
                raise
            finally:
                self.say_how_to_go_on()
            if not outcome.stopped:
                statefile.forget(run_dir)
            return outcome

    def _unfinished(self) -> bool:
        """Whether jobs of a batch are not home; the next process brings home the one that was training."""
        run = self.ledger.run(self.run_id)
        ended = {
            job.name for rental in run.rentals for job in rental.jobs if job.over_at is not None and not job.failed
        }
        return bool(names(run.config) - ended)

    def _replanner(self, order: LaunchOrder, soft: Callable[[], float], asker: Asker) -> Replanner:
        return Replanner(order.on_overrun, soft, self.clock, self.tell, asker)

    def _session(
        self,
        host: Host,
        output_dir: Path,
        job_id: str,
        held: Held,
        watch: Watch,
        guard: DeadMan | None,
        hold_s: float,
        expected: Expected,
        replan: Replanner,
        run_dir: Path,
    ) -> Session:
        return Session(
            host, job_id, output_dir, self.run_id, held.tag, self.ledger, self.clock, watch, self.tell, run_dir,
            lost_s=self.rentals.patience.lost_s, follow_s=self.rentals.patience.follow_s,
            exists=lambda: self.rentals.exists(held), hold_s=hold_s, expected=expected,
            usual_silence_s=self.rentals.patience.usual_silence_s,
            paid_gpu=self._paid_gpu(held.offer.provider, held.offer.price), guard=guard, replan=replan,
            gpu_count=held.offer.gpu_count,
            travel=for_offer(held.offer, watch.hourly, least_s=self.rentals.patience.state_s),
        )  # fmt: skip

    def _limits(self, work: Work, row: QuoteRow, max_hours: float | None, allowance: Usd | None = None) -> Deadlines:
        """Deadlines for what is left of the budget now, or for its share; vetoes an attempt that could not reach
        training."""
        run, start = self.ledger.run(self.run_id), self.clock.now()
        facts = self.rentals.facts[row.offer.provider]
        if max_hours is not None and run.rentals:  # the user's own limit is for all machines of the run
            max_hours = max(0.0, max_hours - (start - run.rentals[0].intent_at) / 3600)
        elif max_hours is None:
            max_hours = max(work.least_hours, LONGEST * row.timeline.total_s.high / 3600)
        if row.offer.max_duration_s is not None:
            hours = max(0.0, row.offer.max_duration_s - END_S) / 3600
            max_hours = min(max_hours, hours)
        crossing = traffic(row.offer.price, together.bulk(increments([task.job for task in work.waiting])))
        states = sum(task.resume.size for task in work.waiting if task.resume is not None)
        crossing += row.offer.price.in_gb.scaled(2 * states, GB)
        crossing += row.state_cost
        limits = deadlines(
            budget=run.budget if allowance is None else allowance,
            spent=run_spent(run, start) if allowance is None else ZERO, hourly=tolerated(row.hourly),
            traffic=tolerated(crossing + surge_reserve(row.offer)), start=start,
            finish_s=max(one.collect_s.high for one in row.jobs) + 15, teardown_s=row.timeline.destroy_s.high,
            max_hours=max_hours, granularity_s=facts.billing_granularity_s,
        )  # fmt: skip
        allow_create(
            limits, start=start, needed_s=row.timeline.before_training_s.low, boot_s=row.timeline.boot_s.low,
            hourly=row.hourly, minimum_s=facts.minimum_s, teardown_s=row.timeline.destroy_s.high,
            granularity_s=facts.billing_granularity_s,
        )  # fmt: skip
        return limits

    def _watch(self, limits: Deadlines, hourly: Usd, offer: Offer) -> Watch:
        hourly, grain = tolerated(hourly), self.rentals.facts.get(offer.provider, Facts()).billing_granularity_s
        reserve = teardown_reserve(hourly, TEARDOWN_S, grain) + tolerated(surge_reserve(offer))
        said: SimpleQueue[Progress] = SimpleQueue()
        meter = Meter(self.ledger, self.rentals.providers, self.clock, said.put)
        return Watch(
            self.ledger, self.run_id, limits, self.clock, self.interrupt, self.tell, reserve, hourly,
            rouse=self.rentals.rouse, meter=meter.look, counted=meter.counted, said=said,
        )  # fmt: skip


def _short(needed_s: float, left_s: float) -> str:
    """Why a job does not fit; empty where it does."""
    if needed_s <= left_s:
        return ""
    return f"it needs about {needed_s:.0f} s, and the money left pays for {max(0.0, left_s):.0f} s"


def _estimate(work: Work, task: Task, row: QuoteRow) -> Timeline:
    """What is left of a job, by its estimate."""
    whole = task.planned or row.jobs[work.place(task)]
    return replace(whole, train_s=whole.train_s.times(task.share_left(work.last_step(task))))


@dataclass
class _Machine:
    """A rented machine that was examined and may train."""

    host: Host
    held: Held
    watch: Watch
    guard: DeadMan | None
    premises: Premises = field(default_factory=Premises)
    pace: Pace = field(default_factory=Pace)
    ways: line.Ways | None = None
    """What its line carries."""
    ahead: Ahead | None = None
    """What is sent for the job after the one that trains."""
    kept_s: float = 0.0
    """Seconds that the jobs after it need: they come before pictures of it."""


@dataclass
class _Ending:
    """Whatever happens after the intent, the rental is destroyed; only the user's third Ctrl-C leaves it.

    What is already in doubt stays with ``reap``: waiting a second time for the same answer helps nobody.
    """

    conductor: Conductor
    tag: str
    held: Held | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, InDoubt) or (isinstance(error, Halt) and error.leave):
            return
        reason = "the job is done" if error is None else str(error) or type(error).__name__
        one = self.conductor
        one.rentals.end(
            one.run_id, self.tag, self.held, reason=reason, give_up=lambda: one.interrupt.level >= Stop.LEAVE
        )
