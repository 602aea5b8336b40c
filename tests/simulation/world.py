"""A market with machines, a ledger, and the computers that share it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.simulation.books import Books
from tests.simulation.clock import START, VirtualClock
from tests.simulation.computer import Computer, Crash, MortalClock, Process
from tests.simulation.hosts import Network, SimConnector
from tests.simulation.schedule import Home, Schedule
from tests.simulation.service import URL, CountingFaults, Service
from tests.simulation.wires import Line, Transport, Wires

from gpurent.broker import Broker
from gpurent.budget.events import Event, Kind
from gpurent.budget.state import Run
from gpurent.dataset.job import Job
from gpurent.http import Policy
from gpurent.jobs.boot import Patience
from gpurent.model import Price
from gpurent.money import Usd
from gpurent.registry import Opened
from gpurent.settings import JobSection, LimitsSection, NeedSection, Settings
from gpurent.spi import Facts
from gpurent_sandbox.adapter.provider import SandboxProvider
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import Held
from gpurent_sandbox.market import Market

POLICY = Policy(attempts=3)


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks: rarer than in earnest, and often enough."""

    look_s: float = 30.0
    """Of an enforcer at its rental."""
    tick_s: float = 15.0
    """Of a client at what was spent."""
    mind_s: float = 10.0
    """At what is minded, in any wait."""


CLOSE = Pace(2.0, 3.0, 2.0)
"""Nearly as in earnest: where a full line costs more than the machine, seconds count."""


@dataclass
class Tally:
    """How often everything happened, over all lives."""

    faults: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Faults that struck in the same life."""
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


class World:
    """Everything that one life is played in."""

    def __init__(self, schedule: Schedule, job: Job, folder: Path, *, with_httpx: bool = False) -> None:
        self.schedule = schedule
        self.course = schedule.course
        """Of every training."""
        self.batch = 0
        """How many jobs a run has, where it is a batch."""
        self.rentals = 1
        """How many machines at the same time, where it is a batch."""
        self.complete = False
        """Whether a batch was said to be done; some machines are of no use on any day."""
        self.job = job
        self.folder = folder
        self.with_httpx = with_httpx
        """Requests go through httpx itself: slow, and no other life."""
        self.pace = CLOSE if any(rule.fault is Fault.FOREIGN_TRAFFIC for rule in schedule.rules) else Pace()
        self.story: list[str] | None = None
        """What happened, line by line, if anybody wants to read it."""
        self.tally = Tally()
        self.violations: list[str] = []
        self.lies: list[str] = []
        self.offset_at: dict[str, float] = {}
        """By how much the clock was wrong by which a rental's deadlines were computed."""
        self.ordered_at: dict[str, float] = {}
        """When a rental was first ordered to end."""
        self.over = False
        """From now on nothing fails."""
        self.over_since = 0.0
        self.waiting: set[Process] = set()
        """Processes whose end is waited for."""
        self.on_lost: Callable[[Process], None] = lambda _process: None
        self._deaf_at, self._mute_at = schedule.deaf_at, schedule.mute_at
        self.hindered = [(START + start, START + start + length) for start, length, _ in schedule.home]
        """When something was wrong at home, and until when."""
        rng = random.Random(schedule.seed + 1)
        self.clock = VirtualClock()
        self.books = Books()
        self.faults = CountingFaults(random.Random(schedule.seed + 2))
        self.faults.struck = self.tally.faults
        self.market = Market(
            _machines(rng, schedule), clock=self.clock, faults=self.faults, rng=rng, balance=Usd(20_000_000)
        )
        self.computers: list[Computer] = []
        self.here = self.computer("here")
        self.service = Service(self, self.market, self.faults)
        self.network = Network(self)
        for rule in schedule.rules:
            self.faults.set(rule.fault, times=rule.times, p=rule.p, value=rule.value)
        self._plan()

    def computer(self, name: str, offset: float = 0.0) -> Computer:
        """One more computer that shares the ledger."""
        made = Computer(self, name, offset)
        self.computers.append(made)
        if offset:
            self.tally.faults["clocks of two computers apart"] += 1
        return made

    @property
    def shared(self) -> bool:
        """Whether more than one computer uses the ledger."""
        return self.schedule.comes_apart_s is not None or (
            self.schedule.second is not None and self.schedule.second.apart_s is not None
        )

    @property
    def processes(self) -> list[Process]:
        """All that ever were, on all computers."""
        return [process for computer in self.computers for process in computer.processes]

    def _plan(self) -> None:
        """Put the troubles that come with time on the clock."""
        plan, service = self.schedule, self.service
        for start, length in plan.outages:
            self._during(start, length, partial(setattr, service, "down"))
        for start, length in plan.trickles:
            self._during(start, length, partial(setattr, service, "trickling"))
        if plan.revoked is not None:
            self._during(*plan.revoked, partial(setattr, service, "revoked"))
        for start, length in plan.cuts:
            self.later(start, partial(self.network.cut, length))
        for start, length in plan.frozen:
            self.later(start, partial(self.network.freeze, length))
        for start, delta in plan.jumps:
            self.later(start, partial(self._set_clock, delta))
        names = {Home.DISK: "unwritable", Home.LEDGER: "unreadable", Home.NETWORK: "offline"}
        for start, length, trouble in plan.home:
            self._during(start, length, partial(setattr, self.here, names[trouble]))

    def later(self, start: float, act: Callable[[], object]) -> None:
        """Do something so many seconds after the start, unless everything is over by then."""
        self.clock.at(START + start, lambda: None if self.over else act())

    def _during(self, start: float, length: float, switch: partial[None]) -> None:
        for moment, on in ((start, True), (start + length, False)):
            self.later(moment, partial(self._switch, switch, on))

    def _switch(self, switch: partial[None], on: bool) -> None:
        self.note(None, f"{switch.args[-1]}: {on}")
        switch(on)

    def _set_clock(self, delta: float) -> None:
        self.here.offset += delta
        self.note(None, f"the clock is set by {delta:.0f} s")
        self.tally.faults["clock set back" if delta < 0 else "clock set forward"] += 1

    def good_day(self) -> None:
        """From now on nothing fails, and nobody is left who did something."""
        self.over, self.over_since = True, self.clock.now()
        for process in self.processes:
            if process.ended is None:
                process.kill("the end")
        self.clock.run_until(self.clock.now())
        self.faults.clear()
        self.service.down = self.service.trickling = self.service.revoked = False
        self.network.repair()
        for computer in self.computers:
            computer.offset = 0.0
            computer.unwritable = computer.unreadable = computer.offline = False

    def close(self) -> None:
        """Nothing of it is looked at any more."""
        for process in self.processes:
            process.forget()
        self.clock.end(Crash("the world is over"))

    def open(self, process: Process) -> Broker:
        """What a process of gpurent works with."""
        clock = MortalClock(process)
        patience = Patience(poll_s=self.schedule.poll_s, confirm_every_s=5, follow_s=self.schedule.follow_s)
        facts = Facts(
            self.schedule.unit_s, self.schedule.minimum_s, boot_s=60, play_money=True,
            lasting_refs=not self.schedule.reused,
        )  # fmt: skip
        return Broker(
            settings=Settings(
                job=JobSection(grid=self.schedule.seed % 4 == 0), limits=LimitsSection(per_day=self.schedule.per_day),
                need=NeedSection(min_down_mbps=0, min_up_mbps=0),
            ), home=process.computer.home,
            connector=SimConnector(self.network, clock), clock=clock,
            providers={"sandbox": Opened("sandbox", self._provider(clock), facts)}, patience=patience,
        )  # fmt: skip

    def _provider(self, clock: MortalClock) -> SandboxProvider:
        wires = Wires(clock, POLICY.answer_s)
        provider = SandboxProvider(URL, clock.process.key, clock, policy=POLICY, transport=Transport(wires))
        if not self.with_httpx:
            lines: Any = provider._api._lines
            lines._idle.clear()
            lines._make = lambda: Line(wires)
        return provider

    def note(self, process: Process | None, text: str) -> None:
        """Put something down for the reader of this life's story."""
        if self.story is not None:
            self.story.append(f"{self.clock.monotonic():10.1f}  {'' if process is None else process.name:10}  {text}")

    def lost(self, process: Process) -> None:
        """Hear of a process that will do nothing more by itself, although it is there."""
        if process in self.waiting:
            self.waiting.discard(process)
            self.on_lost(process)

    def attempted(self, kind: Kind, computer: Computer) -> None:
        """Hear that a line is about to be written: the disk may be full just now."""
        if self._deaf_at is None or self.over or kind is not self._deaf_at[0]:
            return
        (_, length), self._deaf_at = self._deaf_at, None
        self.tally.faults["disk full at a certain line"] += 1
        self.note(None, f"the disk is full for {length:.0f} s")
        self.hindered.append((self.clock.now(), self.clock.now() + length))
        self._during(self.clock.now() - START, length, partial(setattr, computer, "unwritable"))
        computer.unwritable = True

    def answer_lost(self, kind: Kind) -> bool:
        """Whether the writer of a line that was written hears that it was not."""
        if kind is not self._mute_at or self.over:
            return False
        self._mute_at = None
        self.tally.faults["a line is written and its writer told otherwise"] += 1
        return True

    def witness(self, event: Event, move: str, believed: float) -> None:
        """Hear of a line that was committed, and what its writer believed the time to be."""
        self.tally.lines[event.kind.value] += 1
        self.tally.moves[move] += 1
        if event.tag is not None and event.kind is Kind.DESTROY_SENT:
            self.ordered_at.setdefault(event.tag, self.clock.now())
        if event.tag is not None and event.kind is Kind.INTENT:
            self.offset_at[event.tag] = believed - self.clock.now()
        alive = [held for held in self.market.alive() if held.order.label == event.tag]
        if event.kind is Kind.GONE and any(self.service.foreseeable(held) for held in alive):
            self.lies.append(f"{event.tag} was called gone while it was alive")

    def resumed(self, name: str, step: int) -> None:
        """Hear of an engine that goes on from a state: somewhere it was written."""
        self.tally.checked["trainings that went on from a state on another machine"] += 1
        self.note(None, f"{name} goes on from step {step}")
        others = (one for machine in self.network.machines.values() for one in machine.engines.values())
        if not any(one.name == name and one.reached >= step for one in others):
            self.violations.append(f"{name} goes on from step {step}, which it never reached")

    def runs(self) -> tuple[Run, ...]:
        """What the ledger says, read by nobody of this world."""
        return tuple(self.books.runs.values())

    def history(self) -> list[Held]:
        """All instances of ours that were ever made."""
        return self.market.history("sandbox")

    def answers_from(self, moment: float) -> float:
        """When the provider answers again, from ``moment`` on, and for long enough to be asked twice."""
        for start, length in sorted((*self.schedule.outages, *self.schedule.trickles)):
            if START + start < moment + 300.0:
                moment = max(moment, START + start + length)
        return moment

    def last_deadline(self) -> float:
        """When the last rental has to be over, by the clock of this world.

        A switch that was started late by a wrong clock counts its time from then on.
        """
        rentals = {one.tag: one for run in self.runs() for one in run.rentals}
        hard = [one.hard_deadline - self.offset_at[one.tag] for one in rentals.values()]
        begun = [(held.created_at, rentals.get(held.order.label)) for held in self.market.alive()]
        late = [at + one.hard_deadline - one.intent_at for at, one in begun if one is not None]
        return max((*hard, *late), default=START)


def _machines(rng: random.Random, plan: Schedule) -> list[Machine]:
    return [
        Machine(
            f"m{number}", "RTX 3090", 24576, _price(rng), down_mbps=rng.choice((10.0, 100.0)),
            up_mbps=rng.choice((10.0, 100.0)), boot_s=plan.boot_s, unit_s=plan.unit_s, minimum_s=plan.minimum_s,
        )
        for number in range(4)
    ]  # fmt: skip


def _price(rng: random.Random) -> Price:
    gpu, disk = Usd(rng.randint(60_000, 500_000)), Usd(rng.choice((0, 150_000)))
    received, sent = (Usd(rng.choice((0, 0, 2_000, 20_000))) for _ in range(2))
    return Price(gpu, disk, received, sent)
