"""Virtual time on which many act at once: an actor that waits gives way, and everything due happens in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

from gpurent.clock import Uptime
from gpurent.tasks import Inline, Task

T = TypeVar("T")

START = 1_800_000_000.0


class VirtualClock:
    """A ``Clock`` on which hours take microseconds.

    The greenlet that made it conducts: it runs what is due. Any other is an actor; its wait gives control back. Only
    one acts at any time and ties are broken by order, so a seed stays a life.
    """

    def __init__(self) -> None:
        self._now = START
        self._due: list[tuple[float, int, Entry]] = []
        self._fresh: list[Actor[Any]] = []
        """They begin as soon as the current actor gives way, unless somebody waits for them before."""
        self._order = count()
        self._horizon = START
        self.conductor = getcurrent()
        self._back = self.conductor
        self._spawned: list[Actor[Any]] = []

    def now(self) -> float:
        """Unix seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the beginning of this world."""
        return self._now - START

    def uptime(self) -> Uptime:
        """As ``monotonic``."""
        return Uptime("simulation", self._now - START)

    def sleep(self, seconds: float) -> None:
        """Let time pass; others act meanwhile."""
        until = self._now + max(0.0, seconds)
        me = getcurrent()
        if me is self.conductor:
            self.run_until(until)
        elif until <= self._horizon and self._idle_until(until):
            self._now = until
        else:
            self.at(until, me.switch)
            self._give_way()

    def _give_way(self) -> None:
        """To the actor that let this one begin, if it has not waited before; to the conductor otherwise."""
        if self._fresh:
            self._let_begin()
        back, self._back = self._back, self.conductor
        back.switch()

    def _idle_until(self, moment: float) -> bool:
        """Whether nobody else has anything to do before."""
        if self._fresh:
            self._let_begin()
        due = self._due
        while due and due[0][2].act is None:
            heapq.heappop(due)
        return not due or due[0][0] > moment

    def at(self, moment: float, act: Callable[[], object]) -> Entry:
        """Do something later, which must not wait: what waits is an actor."""
        entry = Entry(act)
        now = self._now
        heapq.heappush(self._due, (moment if moment > now else now, next(self._order), entry))
        return entry

    def soon(self, actor: Actor[Any]) -> None:
        """Let it begin at this moment, if nobody waits for it before."""
        self._fresh.append(actor)

    def _let_begin(self) -> None:
        for actor in self._fresh:
            if not actor.begun:
                self.at(self._now, actor.begin)
        self._fresh.clear()

    def run_until(self, moment: float, over: Callable[[], bool] = lambda: False) -> None:
        """Let time pass up to ``moment``, or until ``over`` says that nothing more is waited for."""
        before, self._horizon = self._horizon, moment
        due = self._due
        try:
            while True:
                if self._fresh:
                    self._let_begin()
                if not due or due[0][0] > moment or over():
                    break
                at, _, entry = heapq.heappop(due)
                if entry.act is not None:
                    self._now = max(self._now, at)
                    entry.act()
            if not over():
                self._now = max(self._now, moment)
        finally:
            self._horizon = before

    def spawn(self, act: Callable[[], T]) -> Actor[T]:
        """Let something act beside the others, from now on."""
        actor = Actor(self, act)
        self._spawned.append(actor)
        self.at(self._now, actor.begin)
        return actor

    def end(self, error: BaseException) -> None:
        """This world is over: raise ``error`` in what was spawned and still waits, or it stays in memory for good."""
        for actor in self._spawned:
            actor.end(error)
        self._due.clear()
        self._fresh.clear()

    def begin(self, act: Callable[[], T]) -> Task[T]:
        """For the market, where nothing hangs."""
        return Inline(act)


class Entry:
    """Something that falls due; nothing, once its act is taken away."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], object] | None) -> None:
        self.act = act


class Actor(Generic[T]):
    """Something that acts by itself. What it raises is kept until its result is asked for."""

    def __init__(self, clock: VirtualClock, act: Callable[[], T]) -> None:
        self._clock = clock
        self._act = act
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._self = greenlet(self._run, clock.conductor)
        self.begun = False
        self.over = False

    def begin(self) -> None:
        """Let it act until it waits or ends, unless it has begun."""
        if not self.begun and not self.over:
            self.begun = True
            self._self.switch()

    def _run(self) -> None:
        try:
            self._value.append(self._act())
        except BaseException as error:  # noqa: BLE001  handed to the caller that waits for it
            self._error = error
        self.over = True

    def wait(self, within: float) -> bool:
        """Wait for its end, as another actor, for at most ``within`` seconds; whether it came.

        Its end gives control straight back: most of what is waited for needs no time at all.
        """
        if not self.begun and not self.over:
            self._begin_for(getcurrent())
        if not self.over:
            me = getcurrent()
            self._self.parent = me
            timer = self._clock.at(self._clock.now() + within, me.switch)
            self._clock._give_way()
            timer.act = None
            if not self.over:
                self._self.parent = self._clock.conductor
        return self.over

    def _begin_for(self, waiter: greenlet) -> None:
        """Let it act until it waits or ends, and come back here at once: most needs no timer."""
        clock = self._clock
        self.begun, self._self.parent = True, waiter
        before, clock._back = clock._back, waiter
        self._self.switch()
        clock._back = before
        if not self.over:
            self._self.parent = clock.conductor

    def result(self) -> T:
        """What came of it, once it is over."""
        if self._error is not None:
            raise self._error
        return self._value[0]

    def end(self, error: BaseException) -> None:
        """Raise ``error`` where it waits, unless it is over."""
        if self.over:
            return
        if self._self:
            self._self.throw(error)
        self.over = True
