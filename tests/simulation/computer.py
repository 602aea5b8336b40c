"""A computer of ours and the processes on it: what happens to them is drawn; what they do is the product."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests.simulation.books import MemoryLedger
from tests.simulation.clock import Actor, VirtualClock
from tests.simulation.coverage import transition
from tests.simulation.schedule import NEVER
from tests.simulation.service import ACCOUNT
from tests.simulation.strangers import Sight

from gpurent import tasks
from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Event, Kind
from gpurent.budget.state import Run
from gpurent.clock import SystemClock, Uptime
from gpurent.tasks import Abandoned, Overdue, Task, mind

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

Spans = list[tuple[float, float]]


class Crash(BaseException):
    """``kill -9``: no handler of ours may act on it, and none can, since every port of a dead process raises it."""


class Computer:
    """Clock, lid, disk and line of one computer."""

    def __init__(self, world: World, name: str, offset: float = 0.0) -> None:
        self.world = world
        self.name = name
        self.home = world.folder / name
        self.offset = offset
        """By how much its clock is wrong."""
        self.asleep: Spans = []
        self.unwritable = self.unreadable = False
        """Whether the ledger can be used from here."""
        self.offline = False
        """Whether its whole network is gone."""
        self.processes: list[Process] = []

    def process(self, **options: Any) -> Process:
        """Start one: see ``Process``."""
        return Process(self, **options)

    def sleeps(self, seconds: float) -> None:
        """Somebody closes the lid."""
        now = self.world.clock.now()
        self.world.note(None, f"{self.name} sleeps for {seconds:.0f} s")
        self.asleep.append((now, now + seconds))
        self.world.tally.faults["laptop asleep"] += 1


class Process:
    """One process. Each call of a port is two steps: before its effect, and after."""

    def __init__(
        self, computer: Computer, *, crash_at: int | None = None, naps: Mapping[int, float] | None = None,
        freezes: Mapping[int, float] | None = None, dies_at: tuple[Kind, str] | None = None,
        hangs_at: int | None = None, key: str = ACCOUNT, name: str = "client",
    ) -> None:  # fmt: skip
        self.computer = computer
        self.world = computer.world
        self._clock = computer.world.clock
        self._dies = "" if dies_at is None else f"{dies_at[1]} {dies_at[0]}"
        self._crash_at = crash_at
        self._naps, self._freezes = dict(naps or {}), dict(freezes or {})
        self._hangs_at = hangs_at
        self._calls = 0
        self.name = name
        self.key = key
        """Of the account that it knows."""
        self.steps = 0
        self.dead = False
        self.died_in = ""
        self.runs: list[str] = []
        """The runs that it opened: a batch that is run again is another. It looks after no others, and after one at a
        time."""
        self.began = self._clock.now()
        self.ended: float | None = None
        self.frozen: Spans = []
        self.hung_at: float | None = None
        self.heard_at = self.began
        """When it last did something."""
        self.looked_at: deque[float] = deque(maxlen=32)
        """When it was answered, by a listing or about an instance."""
        self.woke_at: float | None = None
        """When it last went on after it could do nothing for a while."""
        self.watches = False
        """Whether it looks after every run of its computer."""
        self.lost = False
        """Whether it will do nothing more by itself, although it is there."""
        self._actors: set[Actor[Any]] = set()
        self.locks: set[Path] = set()
        """Folders of the runs that it conducts."""
        self.children: list[Process] = []
        """They end with it."""
        computer.processes.append(self)

    def step(self, what: str) -> None:
        """Take a step, unless death comes first. What sleeps or is frozen takes it later."""
        if self.dead:
            raise Crash(what)
        self.steps += 1
        if self.steps == self._crash_at or what == self._dies:
            self.kill(what)
            raise Crash(what)
        if self._naps and (nap := self._naps.pop(self.steps, 0.0)):
            self.computer.sleeps(nap)
        if self._freezes and (freeze := self._freezes.pop(self.steps, 0.0)):
            self.freeze(freeze)
        self.wake()
        self.heard_at = self._clock.now()

    def call_host(self) -> None:
        """One of its threads is about to wait for a host: one such call may never return."""
        self._calls += 1
        if self._calls == self._hangs_at:
            self.hung_at = self._clock.now()
            self.world.note(self, "waits for a host for ever")
            self.world.tally.faults["a thread hangs for good"] += 1
            self.lost = True
            self.world.lost(self)
            self._clock.sleep(NEVER)

    def wake(self) -> None:
        """Wait for as long as it is frozen, or its computer asleep."""
        while self.frozen or self.computer.asleep:
            left = max(over for _, over in (*self.frozen[-1:], *self.computer.asleep[-1:])) - self._clock.now()
            if left <= 0:
                break
            self._clock.sleep(left)
            self.woke_at = self._clock.now()
        if self.dead:
            raise Crash("while it could do nothing")

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, a debugger, a machine that swaps: none of its threads does anything."""
        now = self._clock.now()
        self.world.note(self, f"is frozen for {seconds:.0f} s")
        self.frozen.append((now, now + seconds))
        self.world.tally.faults["a process is frozen" if seconds < NEVER else "a process is frozen for good"] += 1
        if seconds == NEVER:
            self.lost = True
            self.world.lost(self)

    def kill(self, what: str) -> None:
        """It is dead from now on."""
        self.world.note(self, f"dies: {what}")
        self.dead, self.died_in, self.ended = True, what, self._clock.now()
        for actor in self._actors:
            self._clock.at(self._clock.now(), partial(actor.end, Crash(what)))  # locks are let go of, as in earnest
        for child in self.children:
            if child.ended is None:
                child.kill("its parent died")

    def run(self, act: Callable[[], T]) -> Actor[T]:
        """Let one more of its threads run."""

        actor = self.thread(act)
        self._clock.at(self._clock.now(), actor.begin)
        return actor

    def thread(self, act: Callable[[], T]) -> Actor[T]:
        """One more thread, which somebody else begins."""

        def run() -> T:
            _acting.set(self)
            try:
                return act()
            finally:
                self._actors.discard(actor)

        actor = Actor(self._clock, run)
        self._actors.add(actor)
        return actor

    def end(self) -> None:
        """It has come to its own end, unless it is dead already."""
        if self.ended is None:
            self.world.note(self, "ends")
            self.ended = self._clock.now()

    def forget(self) -> None:
        """Its world is over: let go of threads that still wait."""
        self.dead = True
        for actor in list(self._actors):
            actor.end(Crash("the world is over"))

    @property
    def knows_account(self) -> bool:
        """Whether it has the key of the account that rents."""
        return self.key == ACCOUNT

    @property
    def still(self) -> Spans:
        """When it could do nothing, although it lived."""
        return [*self.frozen, *self.computer.asleep]

    @property
    def sight(self) -> Sight:
        """What it can know of whose a number is."""
        return Sight(tuple(self.looked_at), self.woke_at == self._clock.now())


_acting: ContextVar[Process] = ContextVar("process")


def acting() -> Process:
    """The process whose thread runs now."""
    return _acting.get()


class MortalClock(SystemClock):
    """The real clock of a process, on virtual time: somebody may set it, and the process may die in its sleep."""

    def __init__(self, process: Process) -> None:
        clock, computer = process.world.clock, process.computer
        super().__init__(lambda: clock.now() + computer.offset, clock.monotonic)
        self.virtual = clock
        self.process = process

    def monotonic(self) -> float:
        return self.virtual.monotonic()

    def uptime(self) -> Uptime:
        return Uptime(self.process.computer.name, self.virtual.monotonic())

    def sleep(self, seconds: float) -> None:
        self.process.step("sleep")
        left = seconds
        pace_s = self.process.world.pace.mind_s
        while left > pace_s and tasks._minds.get():
            self.virtual.sleep(pace_s)
            self.process.wake()
            mind()
            left -= pace_s
        self.virtual.sleep(left)
        self.process.wake()
        mind()

    def begin(self, act: Callable[[], T]) -> Task[T]:
        return Beside(self.process, self.virtual, act)


class Beside(Task[T]):
    """A thread of a process: an actor of its own."""

    def __init__(self, process: Process, clock: VirtualClock, act: Callable[[], T]) -> None:
        self._process, self._clock, self._act = process, clock, act
        self._left = False
        self._actor = process.thread(self._run)
        clock.soon(self._actor)

    def _run(self) -> T:
        tasks._minds.set((self._wanted,))  # a thread of its own minds nothing else
        return self._act()

    def _wanted(self) -> None:
        if self._left:
            raise Abandoned

    @property
    def over(self) -> bool:
        return self._actor.over

    def result(self, within: float, abandon: Callable[[], object] = lambda: None) -> T:
        until, pace_s = self._clock.now() + within, self._process.world.pace.mind_s
        try:
            while not self._actor.wait(min(pace_s, until - self._clock.now())):
                self._process.wake()
                if self._clock.now() >= until:
                    raise Overdue(f"no end after {within:g} s")
                mind()
        except BaseException:
            self._left = True
            abandon()
            raise
        return self._actor.result()


class MortalLedger(MemoryLedger):
    """A ledger whose writer may die before a line is committed or right after."""

    def __init__(self, clock: MortalClock) -> None:
        self.process = clock.process
        self.world: World = clock.process.world
        super().__init__(self.world.books, clock, random.Random(self.world.schedule.seed + 3))

    def _ask(self, act: Callable[[], T]) -> T:
        return act()

    def append(self, run_id: str, kind: Kind, *, tag: str | None = None, **data: object) -> Event:
        self.process.step(f"before {kind}")
        self.world.attempted(kind, self.process.computer)
        self._reachable(writing=True)
        before = self.books.runs.get(run_id)
        event = super().append(run_id, kind, tag=tag, **data)
        self.world.note(self.process, f"writes {kind} {tag or ''} {data.get('reason', '')}")
        self.world.witness(event, transition(before, kind, tag), self._clock.now())
        self.process.step(f"after {kind}")
        if self.world.answer_lost(kind):
            raise LedgerError("the connection was lost", passing=True)
        return event

    def open_run(self, *arguments: Any, **options: Any) -> str:
        self.process.step("before run_opened")
        self._reachable(writing=True)
        run_id = super().open_run(*arguments, **options)
        self.process.runs.append(run_id)
        self.world.witness(self.books.lines[-1], transition(None, Kind.RUN_OPENED, None), self._clock.now())
        self.process.step("after run_opened")
        return run_id

    def _reachable(self, *, writing: bool = False) -> None:
        if self.process.dead:
            raise Crash("the ledger")
        here = self.process.computer
        if here.unreadable or (writing and here.unwritable):
            self.world.tally.faults["ledger out of reach" if here.unreadable else "ledger's disk full"] += 1
            raise LedgerError("database or disk is full", passing=True)

    def run(self, run_id: str) -> Run:
        self._reachable()
        return super().run(run_id)

    def runs(self) -> tuple[Run, ...]:
        self._reachable()
        return super().runs()

    def events(self, run_id: str | None = None) -> list[Event]:
        self._reachable()
        return super().events(run_id)

    @classmethod
    def open(cls, path: Path, clock: Any, chooser: random.Random | None = None) -> MortalLedger:
        """What ``Broker`` calls: the ledger of the world whose clock it is."""
        return cls(clock)

    @classmethod
    def open_url(cls, url: str, clock: Any, chooser: random.Random | None = None) -> MortalLedger:
        """The same, where several computers share it."""
        return cls(clock)
