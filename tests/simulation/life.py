"""One schedule played against the whole broker."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.simulation import checks
from tests.simulation.books import Books
from tests.simulation.clock import START, VirtualClock
from tests.simulation.engine import Course
from tests.simulation.fate import Crash, Fate, MortalClock, MortalLedger
from tests.simulation.hosts import Network, SimConnector
from tests.simulation.schedule import Aftermath, Home, Schedule
from tests.simulation.service import ACCOUNT, URL, CountingFaults, Line, Service, Transport, Wires, swapped

from gpurent.broker import Broker
from gpurent.budget.events import Event, Kind
from gpurent.budget.state import Run
from gpurent.dataset.job import Job
from gpurent.errors import GpurentError, InDoubt
from gpurent.expected import Expected
from gpurent.http import Policy
from gpurent.jobs.boot import Patience
from gpurent.model import Price
from gpurent.money import Usd
from gpurent.registry import Opened
from gpurent.sandbox.catalogue import Machine
from gpurent.sandbox.held import Held
from gpurent.sandbox.market import Market
from gpurent.settings import LimitsSection, Settings
from gpurent.spi import Facts
from gpurent_deadman import deadman
from gpurent_providers.sandbox.provider import SandboxProvider


@dataclass
class Tally:
    """How often everything happened, over all lives."""

    faults: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    apart: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Take in another's counts."""
        for name, counter in vars(other).items():
            getattr(self, name).update(counter)


@dataclass(frozen=True)
class Played(Job):
    """A job whose training goes as the schedule says, and is expected to."""

    course: Course | None = None

    @classmethod
    def of(cls, job: Job, course: Course, output_dir: Path) -> Played:
        given = {one.name: getattr(job, one.name) for one in fields(job)}
        return cls(**{**given, "output_dir": output_dir}, course=course)

    @cached_property
    def expected(self) -> Expected:
        assert self.course is not None
        return Expected(self.name, self.course.steps, 4, None, self.course.every, self.course.size + 1000)


@dataclass
class World:
    """A market with machines, and one ledger."""

    schedule: Schedule
    job: Job
    folder: Path
    tally: Tally
    with_httpx: bool = False
    """Requests go through httpx itself: slow, and no other life."""

    def __post_init__(self) -> None:
        self.lies: list[str] = []
        self.offset = 0.0
        """By how much the clock of the client's computer is wrong."""
        self.offset_at: dict[str, float] = {}
        """By how much it was when a rental's deadlines were reckoned."""
        self.fates: list[Fate] = []
        self.over = False
        self._deaf_at = self.schedule.deaf_at
        self.hindered = [(START + start, START + start + length) for start, length, _ in self.schedule.home]
        """When something was wrong at home, and until when."""
        rng = random.Random(self.schedule.seed + 1)
        self.clock = VirtualClock()
        self.books = Books()
        self.unwritable = self.unreadable = False
        self.faults = CountingFaults(random.Random(self.schedule.seed + 2))
        self.faults.struck = self.tally.faults
        self.market = Market(
            _machines(rng, self.schedule), clock=self.clock, faults=self.faults, rng=rng, balance=Usd(20_000_000)
        )
        self.service = Service(self.market, self.faults, self.clock, self.tally.faults)
        self.network = Network(self)
        for rule in self.schedule.rules:
            self.faults.set(rule.fault, times=rule.times, p=rule.p, value=rule.value)
        self._plan()

    def _plan(self) -> None:
        """Put the troubles that come with time on the clock."""
        plan = self.schedule
        for start, length in plan.outages:
            self._during(start, length, lambda down: setattr(self.service, "down", down))
        for start, length in plan.cuts:
            self._later(start, lambda length=length: self.network.cut(length))  # type: ignore[misc]
        for start, delta in plan.jumps:
            self._later(start, lambda delta=delta: self._set_clock(delta))  # type: ignore[misc]
        for start, length, trouble in plan.home:
            name = "unwritable" if trouble is Home.DISK else "unreadable"
            self._during(start, length, lambda on, name=name: setattr(self, name, on))  # type: ignore[misc]

    def _later(self, start: float, act: Callable[[], None]) -> None:
        self.clock.at(START + start, lambda: None if self.over else act())

    def _during(self, start: float, length: float, switch: Callable[[bool], None]) -> None:
        self._later(start, lambda: switch(True))
        self._later(start + length, lambda: switch(False))

    def _set_clock(self, delta: float) -> None:
        self.offset += delta
        self.tally.faults["clock set back" if delta < 0 else "clock set forward"] += 1

    def good_day(self) -> None:
        """From now on nothing fails."""
        self.over, self.offset = True, 0.0
        self.faults.clear()
        self.service.down, self.network.down_until = False, 0.0
        self.unwritable = self.unreadable = False

    @contextmanager
    def client(self, fate: Fate) -> Iterator[Broker]:
        """A process of gpurent, with its own death."""
        self.fates.append(fate)
        clock = MortalClock(self, fate)
        provider = self._provider(clock, fate)
        patience = Patience(poll_s=5, confirm_every_s=5, follow_s=self.schedule.follow_s)
        facts = Facts(self.schedule.unit_s, self.schedule.minimum_s, boot_s=60, play_money=True)
        broker = Broker(
            settings=Settings(limits=LimitsSection(per_day=self.schedule.per_day)), home=self.folder,
            connector=SimConnector(self.network, fate), clock=clock,
            providers={"sandbox": Opened("sandbox", provider, facts)}, patience=patience,
        )  # fmt: skip
        broker._ledger = MortalLedger(self, clock, fate)
        try:
            yield broker
        finally:
            broker.close()
            fate.ended = self.clock.now() if fate.ended is None else fate.ended
            if fate.asleep:
                self.tally.faults["laptop asleep"] += len(fate.asleep)

    def _provider(self, clock: MortalClock, fate: Fate) -> SandboxProvider:
        wires = Wires(self.service, self.clock, fate, self.network.notice)
        provider = SandboxProvider(URL, ACCOUNT, clock, policy=Policy(attempts=3), transport=Transport(wires))
        if not self.with_httpx:
            lines: Any = provider._api._lines
            lines._idle.clear()
            lines._make = lambda: Line(wires)
        return provider

    def attempted(self, kind: Kind) -> None:
        """Hear that a line is about to be written: the disk may be full just now."""
        if self._deaf_at is None or self.over or kind is not self._deaf_at[0]:
            return
        (_, length), self._deaf_at = self._deaf_at, None
        self.tally.faults["disk full at a certain line"] += 1
        self.hindered.append((self.clock.now(), self.clock.now() + length))
        self.unwritable = True
        self._during(self.clock.now() - START, length, lambda on: setattr(self, "unwritable", on))

    def witness(self, event: Event, believed: float) -> None:
        """Hear of a line that was committed, and what its writer believed the time to be."""
        if event.tag is not None and event.kind is Kind.INTENT:
            self.offset_at[event.tag] = believed - self.clock.now()
        if event.kind is Kind.GONE and any(held.order.label == event.tag for held in self.market.alive()):
            self.lies.append(f"{event.tag} was called gone while it was alive")

    def runs(self) -> tuple[Run, ...]:
        """What the ledger says, read by nobody of this world."""
        return tuple(self.books.runs.values())

    def history(self) -> list[Held]:
        """All instances that were ever made."""
        return self.market.history("sandbox")


def _machines(rng: random.Random, plan: Schedule) -> list[Machine]:
    return [
        Machine(
            f"m{number}", "RTX 3090", 24576,
            Price(Usd(rng.randint(60_000, 500_000)), Usd(rng.choice((0, 150_000))), Usd(rng.choice((0, 20_000))),
                  Usd(rng.choice((0, 20_000)))),
            boot_s=plan.boot_s, unit_s=plan.unit_s, minimum_s=plan.minimum_s,
        )
        for number in range(4)
    ]  # fmt: skip


@dataclass
class Verdict:
    """What one life showed."""

    seed: int
    violations: list[str]
    tally: Tally
    ending: str


def live(schedule: Schedule, job: Job, folder: Path, *, with_httpx: bool = False) -> Verdict:
    """Play a schedule to its very end and check every invariant."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    world = World(schedule, job, folder, Tally(), with_httpx)
    violations: list[str] = []

    def complain(error: Exception) -> None:
        world.tally.faults[f"a switch hears {type(error).__name__}"] += 1

    def environment(init: str) -> dict[str, str]:
        return world.network.machines[init].environment

    with swapped(deadman, "complain", complain), swapped(deadman, "environment", environment):
        ending = _first_lives(world, violations)
        if any(fate.dead for fate in world.fates) or ending == InDoubt.__name__:
            _aftermath(world, violations)
        if schedule.aftermath is Aftermath.NOBODY:
            ends = [held.ended_at or world.clock.now() for held in world.history()]
            hard = [one.hard_deadline - world.offset_at[one.tag] for run in world.runs() for one in run.rentals]
            world.clock.run_until(max([*ends, *hard, world.clock.now()]) + 600)
            checks.ended_alone(world, violations)
        _final_reap(world, violations)
    for check in checks.ALL:
        check(world, violations)
    world.tally.endings[ending] += 1
    world.tally.deaths[world.fates[0].died_in or "none"] += 1
    return Verdict(schedule.seed, violations, world.tally, ending)


def _first_lives(world: World, violations: list[str]) -> str:
    """One run, or two side by side; how the first ended."""
    plan, endings = world.schedule, [""]

    def first() -> None:
        fate = Fate(world.clock, crash_at=plan.crash_at, naps=dict(plan.naps), dies_at=plan.dies_at)
        endings[0] = _train(world, fate, plan.budget, "out", violations)

    def second() -> None:
        assert plan.second is not None
        ending = _train(world, Fate(world.clock, crash_at=plan.second.crash_at), plan.second.budget, "out2", violations)
        world.tally.endings[f"{ending} (a second run)"] += 1

    if plan.second is None:
        first()
    else:
        world.tally.faults["a second run at the same time"] += 1
        acts = [world.clock.spawn(first)]
        world.clock.at(START + plan.second.after_s, lambda: acts.append(world.clock.spawn(second)))
        world.clock.run_until(float("inf"), lambda: len(acts) == 2 and all(one.over for one in acts))
        for one in acts:
            one.result()
    return endings[0]


def _train(world: World, fate: Fate, budget: Usd, name: str, violations: list[str]) -> str:
    plan = world.schedule
    (world.folder / name).mkdir()
    job = Played.of(world.job, plan.course, world.folder / name)
    with world.client(fate) as broker:
        try:
            done = broker.train(
                job, budget=budget, on_overrun="shrink" if plan.shrinks else "stop", hold_minutes=plan.hold_minutes
            )
        except Crash:
            return "crash"
        except GpurentError as error:
            return type(error).__name__
        except Exception as error:  # noqa: BLE001  the finding itself
            violations.append(f"an untyped error: {error!r}")
            return "untyped"
        return "budget" if done.stopped else "done"


def _aftermath(world: World, violations: list[str]) -> None:
    plan = world.schedule
    if plan.aftermath is Aftermath.NOBODY:
        return
    crashes: tuple[int | None, ...] = (None,)
    if plan.aftermath is Aftermath.DYING_REAPS:
        crashes = (*plan.later_crashes, None)
    for crash_at in crashes:
        world.clock.sleep(30.0 if plan.aftermath is Aftermath.WATCHDOG else plan.delay_s)
        with world.client(Fate(world.clock, crash_at=crash_at)) as broker:
            try:
                if plan.aftermath is Aftermath.WATCHDOG:
                    for run_id in broker.abandoned():
                        broker.tend(run_id)
                elif plan.aftermath is Aftermath.STOP:
                    for run_id in broker.abandoned():
                        broker.stop(run_id)
                else:
                    broker.reap()
            except (Crash, GpurentError):
                continue
            except Exception as error:  # noqa: BLE001  the finding itself
                violations.append(f"an untyped error afterwards: {error!r}")


def _final_reap(world: World, violations: list[str]) -> None:
    """Somebody comes at last, on a day on which nothing fails."""
    world.good_day()
    late = 1500.0 if world.schedule.jumps else 120.0  # what was written by a clock that ran ahead is waited for
    with world.client(Fate(world.clock)) as broker:
        for pause in (*[20.0] * 40, *[late] * 12):
            broker.reap()
            if all(run.outcome is not None and not run.open_rentals for run in broker.ledger.runs()):
                broker.settle()
                return
            world.clock.sleep(pause)
        violations.append("the final reap leaves something open")
