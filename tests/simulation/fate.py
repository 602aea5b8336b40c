"""What happens to a client: death at any step, sleep, a clock that is set, a full disk, a ledger out of reach."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from tests.simulation.books import MemoryLedger
from tests.simulation.clock import VirtualClock
from tests.simulation.coverage import transition

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Event, Kind
from gpurent.budget.state import Run
from gpurent.clock import SystemClock, Uptime
from gpurent.tasks import Inline, Task

if TYPE_CHECKING:
    from tests.simulation.life import World

T = TypeVar("T")


class Crash(BaseException):
    """``kill -9``: no handler of ours may act on it, and none can, since every port of a dead client raises it."""


class Fate:
    """One client's steps. Each call of a port is two: before its effect, and after."""

    def __init__(
        self, clock: VirtualClock, *, crash_at: int | None = None, naps: Mapping[int, float] | None = None,
        dies_at: tuple[Kind, str] | None = None,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._dies = "" if dies_at is None else f"{dies_at[1]} {dies_at[0]}"
        self._crash_at = crash_at
        self._naps = dict(naps or {})
        self.steps = 0
        self.dead = False
        self.died_in = ""
        self.run_id: str | None = None
        """The run that it opened; it looks after no other."""
        self.began = clock.now()
        self.ended: float | None = None
        self.asleep: list[tuple[float, float]] = []

    def step(self, what: str) -> None:
        """Take a step, unless death comes first. A nap is a laptop that was closed meanwhile."""
        if self.dead:
            raise Crash(what)
        self.steps += 1
        if self.steps == self._crash_at or what == self._dies:
            self.dead, self.died_in, self.ended = True, what, self._clock.now()
            raise Crash(what)
        nap = self._naps.pop(self.steps, 0.0)
        if nap:
            begun = self._clock.now()
            self.asleep.append((begun, begun + nap))
            self._clock.sleep(nap)

    def awake(self, start: float, end: float) -> bool:
        """Whether it lived, and was awake, from ``start`` to ``end``."""
        if self.began > start or (self.ended is not None and self.ended < end):
            return False
        return all(begun > end or over < start for begun, over in self.asleep)

    def first_awake(self, moment: float) -> float | None:
        """The first moment from ``moment`` on at which it acts."""
        found = max(moment, self.began)
        for begun, over in self.asleep:
            if begun <= found < over:
                found = over
        return None if self.ended is not None and found >= self.ended else found


class MortalClock(SystemClock):
    """The real clock of a client, on virtual time: somebody may set it, and the client may die in its sleep."""

    def __init__(self, world: World, fate: Fate) -> None:
        clock = world.clock
        super().__init__(lambda: clock.now() + world.offset, clock.monotonic)
        self._virtual = clock
        self._fate = fate

    def monotonic(self) -> float:
        return self._virtual.monotonic()

    def uptime(self) -> Uptime:
        return self._virtual.uptime()

    def sleep(self, seconds: float) -> None:
        self._fate.step("sleep")
        self._virtual.sleep(seconds)

    def begin(self, act: Callable[[], T]) -> Task[T]:
        return Inline(act)


class MortalLedger(MemoryLedger):
    """A ledger whose writer may die before a line is committed or right after."""

    def __init__(self, world: World, clock: MortalClock, fate: Fate) -> None:
        super().__init__(world.books, clock, random.Random(world.schedule.seed + 3))
        self.world = world
        self.fate = fate

    def append(self, run_id: str, kind: Kind, *, tag: str | None = None, **data: object) -> Event:
        self.fate.step(f"before {kind}")
        self.world.attempted(kind)
        self._reachable(writing=True)
        before = self.books.runs.get(run_id)
        event = super().append(run_id, kind, tag=tag, **data)
        self.world.tally.lines[kind.value] += 1
        self.world.tally.moves[transition(before, kind, tag)] += 1
        self.world.witness(event, self._clock.now())
        self.fate.step(f"after {kind}")
        return event

    def open_run(self, *arguments: Any, **options: Any) -> str:
        self.fate.step("before run_opened")
        self._reachable(writing=True)
        run_id = super().open_run(*arguments, **options)
        self.fate.run_id = run_id
        self.world.tally.lines[Kind.RUN_OPENED.value] += 1
        self.world.tally.moves[transition(None, Kind.RUN_OPENED, None)] += 1
        self.fate.step("after run_opened")
        return run_id

    def _reachable(self, *, writing: bool = False) -> None:
        if self.fate.dead:
            raise Crash("the ledger")
        world = self.world
        if world.unreadable or (writing and world.unwritable):
            world.tally.faults["ledger out of reach" if world.unreadable else "ledger's disk full"] += 1
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
