"""Virtual time on which many act at once: whoever waits gives way, and everything that falls due happens in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

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
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._horizon = START
        self.conductor = getcurrent()

    def now(self) -> float:
        """Unix seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the beginning of this world."""
        return self._now - START

    def uptime(self) -> Uptime:
        """As ``monotonic``."""
        return Uptime("simulation", self.monotonic())

    def sleep(self, seconds: float) -> None:
        """Let time pass; others act meanwhile."""
        until = self._now + max(0.0, seconds)
        me = getcurrent()
        if me is self.conductor:
            self.run_until(until)
        elif until <= self._horizon and (not self._due or self._due[0][0] > until):
            self._now = until  # nobody else has anything to do before
        else:
            self.at(until, me.switch)
            self.conductor.switch()

    def at(self, moment: float, act: Callable[[], object]) -> None:
        """Do something later, which must not wait: what waits is an actor."""
        heapq.heappush(self._due, (max(moment, self._now), next(self._order), act))

    def run_until(self, moment: float, over: Callable[[], bool] = lambda: False) -> None:
        """Let time pass up to ``moment``, or until ``over`` says that nothing more is waited for."""
        before, self._horizon = self._horizon, moment
        try:
            while self._due and self._due[0][0] <= moment:
                if over():
                    return
                due, _, act = heapq.heappop(self._due)
                self._now = max(self._now, due)
                act()
            if not over():
                self._now = max(self._now, moment)
        finally:
            self._horizon = before

    def spawn(self, act: Callable[[], T]) -> Actor[T]:
        """Let something act beside the others, from now on."""
        return Actor(self, act)

    def begin(self, act: Callable[[], T]) -> Task[T]:
        """For the market, where nothing hangs."""
        return Inline(act)


class Actor(Generic[T]):
    """Something that acts by itself. What it raises is kept for whoever asks for its result."""

    def __init__(self, clock: VirtualClock, act: Callable[[], T]) -> None:
        self._clock = clock
        self._act = act
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._waiting: greenlet | None = None
        self._self = greenlet(self._run, clock.conductor)
        self.over = False
        clock.at(clock.now(), self._begin)

    def _begin(self) -> None:
        if not self.over:
            self._self.switch()

    def _run(self) -> None:
        try:
            self._value.append(self._act())
        except BaseException as error:  # noqa: BLE001  handed to whoever waits for it
            self._error = error
        self.over = True
        if self._waiting is not None:
            self._clock.at(self._clock.now(), self._waiting.switch)
            self._waiting = None

    def wait(self, within: float) -> bool:
        """Wait for its end, as another actor, for at most ``within`` seconds; whether it came."""
        if not self.over:
            me = getcurrent()
            self._waiting = me
            self._clock.at(self._clock.now() + within, lambda: self._give_up(me))
            self._clock.conductor.switch()
        return self.over

    def _give_up(self, waiting: greenlet) -> None:
        if self._waiting is waiting:
            self._waiting = None
            waiting.switch()

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
