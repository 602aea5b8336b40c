"""One schedule played against the whole broker, to its very end."""

from __future__ import annotations

import random
import shutil
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path

from tests.simulation import checks
from tests.simulation.clock import START
from tests.simulation.computer import Computer, Crash, MortalClock, Process
from tests.simulation.engine import Course
from tests.simulation.guards import Guards
from tests.simulation.schedule import Aftermath, Schedule, Second
from tests.simulation.seams import inside, swapped
from tests.simulation.service import ACCOUNT, OTHER_ACCOUNT
from tests.simulation.world import Tally, World

from gpurent.broker import Broker
from gpurent.dataset.job import Job
from gpurent.errors import GpurentError, InDoubt, NoOffer
from gpurent.expected import Expected
from gpurent.jobs.options import BatchOptions, RunOptions
from gpurent.money import Usd
from gpurent.settings import LimitsSection
from gpurent.verbs import resources
from gpurent.verbs.safeguards import Safeguards

AFTER_S = 600.0
"""After the last deadline a switch has had its time."""
LINGER_S = 3600.0
"""For so long after the last deadline it is watched what the watchdog does about a machine that does not end."""
ENDLESS_S = 400_000.0
PLENTY = Usd(10_000_000)


@dataclass(frozen=True)
class Played(Job):
    """A job whose training goes as the schedule says, and is expected to."""

    course: Course | None = None

    @classmethod
    def of(cls, job: Job, course: Course, output_dir: Path, number: int = 0) -> Played:
        """The same job with this course; in a batch, under a name of its own."""
        given = {one.name: getattr(job, one.name) for one in fields(job)}
        if number:
            name = f"{job.name}{number}"
            given |= {"name": name, "spec": replace(job.spec, output_name=name)}
        return cls(**{**given, "output_dir": output_dir}, course=course)

    @cached_property
    def expected(self) -> Expected:
        assert self.course is not None
        return Expected(self.name, self.course.steps, 4, None, self.course.every, self.course.size + 1000)


@dataclass
class Verdict:
    """What one life showed."""

    seed: int
    violations: list[str]
    tally: Tally
    ending: str
    span_s: float | None = None
    """Seconds from the opening of the first run to its close."""


def live(
    schedule: Schedule, job: Job, folder: Path, *, with_httpx: bool = False, story: list[str] | None = None,
    batch: int = 0, rentals: int | None = None,
) -> Verdict:  # fmt: skip
    """Play a schedule and check every invariant.

    Args:
        schedule: what happens.
        job: what is trained.
        folder: for everything that is written.
        with_httpx: as ``World`` has it.
        story: gets what happened, line by line.
        rentals: so many machines at the same time in a batch; drawn when left out.
        batch: so many jobs in a batch, instead of the one; on the good day it is run again until all are home.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    world = World(schedule, job, folder, with_httpx=with_httpx)
    world.story, world.batch = story, batch
    world.rentals = random.Random(f"{schedule.seed} rentals").choice((1, 1, 2, 3)) if rentals is None else rentals
    life = _Life(world)

    def rouse(of: Safeguards) -> None:
        clock = of.resources.clock
        assert isinstance(clock, MortalClock)
        life.guards.rouse(clock.process.computer)

    with inside(world), ExitStack() as seams:
        seams.enter_context(swapped(Safeguards, "rouse", rouse))
        if world.shared:
            seams.enter_context(swapped(resources, "ledger_url", lambda: "postgresql://shared"))
        life.play()
        for check in checks.ALL:
            check(world, world.violations)
        world.close()
    struck = sorted(name for name, count in world.tally.faults.items() if count)
    world.tally.pairs.update(combinations(struck, 2))
    world.tally.endings[life.ending] += 1
    world.tally.deaths[world.here.processes[0].died_in or "none"] += 1
    first = world.runs()[0] if world.runs() else None
    span_s = None if first is None or first.closed_at is None else first.closed_at - first.opened_at
    return Verdict(schedule.seed, world.violations, world.tally, life.ending, span_s)


class _Life:
    """The course of events: clients and their watchdog, the next client, and a good day at last."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.guards = Guards(world)
        self.ending = ""
        self._come = False
        self._starting = False
        """Whether a second run is yet to begin."""
        world.on_lost = lambda _process: self._somebody_comes()

    def play(self) -> None:
        """All of it."""
        world, plan = self.world, self.world.schedule
        self._client(world.here, "out", plan.budget, first=True)
        if plan.second is not None:
            self._second(plan.second)
        self._until_quiet()
        if world.market.alive():
            world.clock.run_until(world.answers_from(max(world.last_deadline(), world.clock.now())) + AFTER_S)
            checks.ended_alone(world, world.violations)
        checks.estimates(world, world.violations)
        world.good_day()
        last = world.here.process(name="last")
        world.waiting.add(last)
        last.run(lambda: self._last_reap(last))
        world.clock.run_until(world.clock.now() + ENDLESS_S, lambda: not world.waiting)

    def _client(self, computer: Computer, name: str, budget: Usd, *, first: bool, crash_at: int | None = None) -> None:
        plan = self.world.schedule
        self._starting &= first
        process = computer.process(
            crash_at=plan.crash_at, naps=dict(plan.naps), freezes=dict(plan.freezes), dies_at=plan.dies_at,
            hangs_at=plan.hangs_at,
        ) if first else computer.process(crash_at=crash_at)  # fmt: skip
        self.world.waiting.add(process)
        process.run(lambda: self._train(process, budget, name, first=first))

    def _second(self, second: Second) -> None:
        self.world.tally.faults["a second run at the same time"] += 1
        here = self.world.here if second.apart_s is None else self.world.computer("there", second.apart_s)
        start = partial(self._client, here, "out2", second.budget, first=False, crash_at=second.crash_at)
        self._starting = True
        self.world.later(second.after_s, start)

    def _train(self, process: Process, budget: Usd, name: str, *, first: bool) -> None:
        world, plan = self.world, self.world.schedule
        (world.folder / name).mkdir()
        job = Played.of(world.job, plan.course, world.folder / name)

        def train(broker: Broker) -> str:
            if world.batch:
                return self._batch(broker, budget, name)
            done = broker.train(
                job, budget=budget,
                options=RunOptions(on_overrun="shrink" if plan.shrinks else "stop", hold_minutes=plan.hold_minutes),
            )  # fmt: skip
            return "budget" if done.stopped else "done"

        ending = self._act(process, train)
        if first:
            self.ending = ending
        else:
            world.tally.endings[f"{ending} (a second run)"] += 1
        if process.dead or ending == InDoubt.__name__:
            self._somebody_comes()

    def _batch(self, broker: Broker, budget: Usd, name: str) -> str:
        """Several jobs instead of the one."""
        world, plan = self.world, self.world.schedule
        jobs = [Played.of(world.job, world.course, world.folder / name, number) for number in range(1, world.batch + 1)]
        options = RunOptions(on_overrun="shrink" if plan.shrinks else "stop", hold_minutes=plan.hold_minutes)
        how = BatchOptions(partial=True, rentals=world.rentals)
        try:
            done = broker.batch(jobs, budget=budget, options=options, batch=how)
        except NoOffer:
            if world.rentals == 1:
                raise
            done = broker.batch(jobs, budget=budget, options=options, batch=replace(how, rentals="auto"))
        return "budget" if done.stopped else "done" if done.complete else "partial"

    def _act(self, process: Process, act: Callable[[Broker], str]) -> str:
        """What a process does, to its end; how that was."""
        world, ending = self.world, "crash"
        with suppress(Crash):
            broker = world.open(process)
            try:
                ending = act(broker)
            except GpurentError as error:
                ending = type(error).__name__
            except Exception as error:  # noqa: BLE001  the finding itself
                world.violations.append(f"an untyped error: {error!r}")
                world.note(process, traceback.format_exc())
                ending = "untyped"
            finally:
                broker.close()
        process.end()
        world.waiting.discard(process)
        return ending

    def _somebody_comes(self) -> None:
        """Once in a life, some time after a client has ended as it should not."""
        plan = self.world.schedule
        if self._come or self.world.over or plan.aftermath in (Aftermath.WATCHDOG, Aftermath.NOBODY):
            return
        self._come = True
        computer = self.world.here
        if plan.comes_apart_s is not None:
            computer = self.world.computer("far", plan.comes_apart_s)
        crashes = (*plan.later_crashes, None) if plan.aftermath is Aftermath.DYING_REAPS else (None,)
        key = OTHER_ACCOUNT if plan.other_account else ACCOUNT
        self._comes(computer, key, list(crashes))

    def _comes(self, computer: Computer, key: str, crashes: list[int | None]) -> None:
        process = computer.process(crash_at=crashes.pop(0), key=key, name="reaper")
        process.watches = True
        self.world.waiting.add(process)

        def come() -> None:
            self.world.clock.sleep(self.world.schedule.delay_s)
            process.began = self.world.clock.now()
            self._act(process, self._look_after)
            if crashes and not self.world.over:
                self._comes(computer, key, crashes)

        process.run(come)

    def _look_after(self, broker: Broker) -> str:
        match self.world.schedule.aftermath:
            case Aftermath.STOP:
                for run_id in broker.abandoned():
                    broker.stop(run_id)
            case Aftermath.ATTACH:
                for run_id in broker.abandoned():
                    broker.attach(run_id)
            case _:
                broker.reap()
        return "came"

    def _until_quiet(self) -> None:
        """Until nobody has anything to do, or what is left to do cannot be done."""
        world = self.world

        def quiet() -> bool:
            return not self._starting and _quiet(world, self.guards)

        while not quiet():
            world.clock.run_until(world.clock.now() + AFTER_S, quiet)
            if not world.waiting and world.clock.now() > world.last_deadline() + LINGER_S:
                return
            if world.clock.now() > START + ENDLESS_S:
                world.violations.append("somebody never ends")
                return

    def _again(self, broker: Broker) -> None:
        """The user of a batch runs it again, on a day and with a budget on which everything comes to its end."""
        settings = broker.resources.settings
        need = settings.need.model_copy(update={"avoid_failed_hours": 0.0})
        broker.resources.settings = settings.model_copy(update={"limits": LimitsSection(), "need": need})
        self.world.market._deposit += PLENTY  # somebody has paid in
        self.world.course = Course(self.world.course.steps, 1.0, 10_000, self.world.course.size)
        for _ in range(3):
            try:
                self.world.complete |= self._batch(broker, PLENTY, "out") == "done"
            except GpurentError as error:
                self.world.note(None, f"the batch cannot be run again: {error!r}")

    def _last_reap(self, process: Process) -> None:
        """Somebody comes at last, on a day on which nothing fails."""
        late = 1500.0 if self.world.schedule.jumps or self.world.shared else 120.0  # lines of clocks that ran ahead

        def reap(broker: Broker) -> str:
            ran = False
            for number, pause in enumerate((*[20.0] * 40, *[late] * 12)):
                broker.reap(same_account=number > 2)  # by then they have read that it asks for that
                if all(run.outcome is not None and not run.open_rentals for run in broker.ledger.runs()):
                    broker.settle()
                    if not self.world.batch or ran:
                        return "over"
                    ran = True
                    self._again(broker)
                broker.clock.sleep(pause)
            self.world.violations.append("the final reap leaves something open")
            return "open"

        self._act(process, reap)


def _quiet(world: World, guards: Guards) -> bool:
    """Nobody acts any more, or there is nothing left to act on."""
    if world.waiting or world.service.owes_create:
        return False
    return guards.quiet or not (world.market.alive() or any(run.open_rentals for run in world.runs()))
