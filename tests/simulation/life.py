"""One schedule played against the whole broker, and what must hold afterwards."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.simulation.clock import START, VirtualClock
from tests.simulation.fate import Crash, Fate, MortalClock, MortalLedger
from tests.simulation.hosts import Network, SimConnector
from tests.simulation.schedule import Aftermath, Schedule
from tests.simulation.service import ACCOUNT, URL, CountingFaults, Service, Transport

from gpurent.broker import Broker
from gpurent.budget.events import Kind
from gpurent.budget.state import RentalState
from gpurent.dataset.job import Job
from gpurent.errors import GpurentError
from gpurent.http import Policy
from gpurent.jobs.boot import Patience
from gpurent.model import Price
from gpurent.money import Usd
from gpurent.registry import Opened
from gpurent.sandbox.catalogue import Machine
from gpurent.sandbox.held import Held
from gpurent.sandbox.market import Market
from gpurent.settings import Settings
from gpurent.spi import Facts
from gpurent_providers.sandbox.provider import SandboxProvider

PATIENCE = Patience(poll_s=5, confirm_every_s=5, follow_s=15)
FACTS = Facts(billing_granularity_s=1, minimum_s=0, boot_s=60, play_money=True)


@dataclass
class Tally:
    """How often everything happened, over all lives."""

    faults: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    apart: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Take in another's counts."""
        for name, counter in vars(other).items():
            getattr(self, name).update(counter)


@dataclass
class World:
    """A market with machines, and one run's ledger."""

    schedule: Schedule
    job: Job
    folder: Path
    tally: Tally

    def __post_init__(self) -> None:
        self.lies: list[str] = []
        rng = random.Random(self.schedule.seed + 1)
        self.clock = VirtualClock()
        self.faults = CountingFaults(random.Random(self.schedule.seed + 2))
        self.faults.struck = self.tally.faults
        self.market = Market(
            _machines(rng, self.schedule.boot_s), clock=self.clock, faults=self.faults, rng=rng, balance=Usd(20_000_000)
        )
        self.service = Service(self.market, self.faults, self.clock)
        self.network = Network(
            self.clock, self.market, self.service, lambda: self.schedule.course, self.faults, self.schedule.cut_off
        )
        for rule in self.schedule.rules:
            self.faults.set(rule.fault, times=rule.times, p=rule.p, value=rule.value)
        for start, length in self.schedule.outages:
            self.clock.at(START + start, lambda: setattr(self.service, "down", True))
            self.clock.at(START + start + length, lambda: setattr(self.service, "down", False))
        for start, length in self.schedule.cuts:
            self.clock.at(START + start, lambda end=START + start + length: setattr(self.network, "down_until", end))  # type: ignore[misc]

    @contextmanager
    def client(self, fate: Fate) -> Iterator[Broker]:
        """A process of gpurent, with its own death."""
        clock = MortalClock(self.clock, fate)
        transport = Transport(self.service, self.clock, fate, self.network.notice)
        policy = Policy(attempts=3)
        provider = SandboxProvider(URL, ACCOUNT, clock, policy=policy, transport=transport)
        broker = Broker(
            settings=Settings(), home=self.folder, connector=SimConnector(self.network, fate), clock=clock,
            providers={"sandbox": Opened("sandbox", provider, FACTS)}, patience=PATIENCE,
        )  # fmt: skip
        chooser = random.Random(self.schedule.seed + 3)
        broker._ledger = MortalLedger.mortal(
            self.folder / "ledger.db", clock, fate, self.tally.lines, chooser, self._witness
        )
        try:
            yield broker
        finally:
            broker.close()

    def _witness(self, kind: Kind, tag: str | None) -> None:
        if kind is Kind.GONE and any(held.order.label == tag for held in self.market.alive()):
            self.lies.append(f"{tag} was called gone while it was alive")

    def history(self) -> list[Held]:
        """All instances that were ever made."""
        return self.market.history("sandbox")

    def billed(self) -> Usd:
        """What the market charged for them."""
        return Usd.total([self.market.charges(held.id).total for held in self.history()])


def _machines(rng: random.Random, boot_s: float) -> list[Machine]:
    return [
        Machine(
            f"m{number}", "RTX 3090", 24576,
            Price(Usd(rng.randint(60_000, 500_000)), Usd(rng.choice((0, 150_000))), Usd(rng.choice((0, 20_000))),
                  Usd(rng.choice((0, 20_000)))),
            boot_s=boot_s,
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


def live(schedule: Schedule, job: Job, folder: Path) -> Verdict:
    """Play a schedule to its very end and check every invariant."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    world = World(schedule, replace(job, output_dir=folder / "out"), folder, Tally())
    violations: list[str] = []
    fate = Fate(world.clock, crash_at=schedule.crash_at, naps=dict(schedule.naps))
    ending = _first_life(world, fate, violations)
    ends_at = world.clock.now()
    if fate.dead:
        _aftermath(world, violations)
    hard = _last_deadline(world)
    alone = fate.dead and schedule.aftermath is Aftermath.NOBODY
    if alone:
        world.clock.run_until(max(hard, world.clock.now()) + 600)
    helpless = _helpless(world)
    if alone and world.market.alive() and not helpless:
        violations.append("the dead-man switch left something alive")
    _final_reap(world, violations)
    visits = 1 + len(schedule.later_crashes) if schedule.aftermath is Aftermath.DYING_REAPS else 1
    away = bool(schedule.naps) or (fate.dead and (alone or ends_at + visits * schedule.delay_s > hard - 60))
    if helpless and away:
        world.tally.apart[helpless] += 1
    else:
        _check_money(world, violations)
    _check_books(world, violations)
    if not fate.dead and not schedule.naps and not schedule.cuts and ending in ("done", "budget"):
        _check_results(world, violations)
    world.tally.endings[ending] += 1
    world.tally.deaths[fate.died_in or "none"] += 1
    return Verdict(schedule.seed, violations, world.tally, ending)


def _first_life(world: World, fate: Fate, violations: list[str]) -> str:
    with world.client(fate) as broker:
        try:
            done = broker.train(
                world.job, budget=world.schedule.budget, on_overrun="shrink" if world.schedule.shrinks else "stop"
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
    world.faults.clear()
    world.service.down, world.network.down_until = False, 0.0
    with world.client(Fate(world.clock)) as broker:
        for _ in range(12):
            broker.reap()
            if all(run.outcome is not None and not run.open_rentals for run in broker.ledger.runs()):
                return
            world.clock.sleep(120)
        violations.append("the final reap leaves something open")


def _last_deadline(world: World) -> float:
    with world.client(Fate(world.clock)) as broker:
        deadlines = [one.hard_deadline for run in broker.ledger.runs() for one in run.rentals]
    return max(deadlines, default=world.clock.now())


def _helpless(world: World) -> str:
    """Why a machine of this world could not end itself, or nothing."""
    for held in world.history():
        if held.troubles.no_key:
            return "client away, machine without a key of its own"
        if held.troubles.boot_stuck:
            return "client away, machine never booted"
        if held.stopped_at is not None:
            return "client away, machine stopped by its provider: the disk bills on"
    if world.schedule.cut_off and world.history():
        return "client away, machine cut off from its provider"
    return ""


def _check_money(world: World, violations: list[str]) -> None:
    if world.billed() > world.schedule.budget:
        violations.append(f"billed {world.billed()} of {world.schedule.budget}")


def _check_books(world: World, violations: list[str]) -> None:
    violations += world.lies
    if world.market.alive():
        violations.append(f"alive after the final reap: {[held.id for held in world.market.alive()]}")
    tags = Counter(held.order.label for held in world.history())
    violations += [f"{count} rentals for the intent {tag}" for tag, count in tags.items() if count > 1]
    with world.client(Fate(world.clock)) as broker:
        runs = broker.ledger.runs()
    known = {rental.tag: rental for run in runs for rental in run.rentals}
    for held in world.history():
        rental = known.get(held.order.label)
        if rental is None:
            violations.append(f"{held.order.label} is not in the ledger")
        elif rental.state is not RentalState.GONE:
            violations.append(f"{held.order.label} was rented, and the ledger calls it {rental.state}")
        elif rental.charged is not None and rental.charged.final:
            real = world.market.charges(held.id)
            if rental.charged.total != real.total:
                violations.append(f"{held.order.label}: the ledger says {rental.charged}, the market {real}")


def _check_results(world: World, violations: list[str]) -> None:
    """Everything written before the soft deadline of its machine is at home."""
    home = {path.name for path in (world.folder / "out").iterdir()}
    for machine in world.network.machines.values():
        if machine.engine is None or machine.held.troubles.vanish_at is not None:
            continue
        lost = {name for name, (_, at) in machine.engine.files.items() if at <= _last_deadline(world)} - home
        violations += [f"lost {name}" for name in sorted(lost)]
