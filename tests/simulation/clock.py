"""Virtual time with a schedule: sleeping runs everything that falls due meanwhile, in order."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from gpurent.tasks import Inline, Task

T = TypeVar("T")
START = 1_800_000_000.0


class VirtualClock:
    """A ``Clock`` on which hours take microseconds."""

    def __init__(self) -> None:
        self._now = START
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._acting: _Actor | None = None

    def now(self) -> float:
        """Unix seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the beginning of this world."""
        return self._now - START

    def sleep(self, seconds: float) -> None:
        """Let time pass; an actor is away meanwhile, and others act."""
        until = self._now + max(0.0, seconds)
        if self._acting is None:
            self.run_until(until)
        else:
            self._acting.wait(until)

    def begin(self, act: Callable[[], T]) -> Task[T]:
        """Carried out by whoever waits for it, at once: virtual time passes in no other thread."""
        return Inline(act)

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._due, (max(moment, self._now), next(self._order), act))

    def run_until(self, moment: float) -> None:
        """Let time pass up to ``moment``; what acts may let more of it pass."""
        while self._due and self._due[0][0] <= moment:
            self._next()
        self._now = max(self._now, moment)

    def together(self, *acts: tuple[float, Callable[[], None]]) -> None:
        """Play several processes side by side, each from its own moment on; return when all are over."""
        actors = [_Actor(self, act) for _, act in acts]
        for actor, (moment, _) in zip(actors, acts, strict=True):
            self.at(moment, actor.resume)
        while not all(actor.over for actor in actors):
            self._next()

    def _next(self) -> None:
        due, _, act = heapq.heappop(self._due)
        self._now = max(self._now, due)
        act()


class _Actor:
    """A process with a stack of its own. Only one runs at any time, so a seed stays a life."""

    def __init__(self, clock: VirtualClock, act: Callable[[], None]) -> None:
        self._clock = clock
        self._act = act
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None
        self.over = False

    def resume(self) -> None:
        """Let it act until it waits or ends."""
        before, self._clock._acting = self._clock._acting, self
        if self._thread.ident is None:
            self._thread.start()
        self._mine.release()
        self._theirs.acquire()
        self._clock._acting = before
        if self._error is not None:
            raise self._error

    def wait(self, until: float) -> None:
        """Called by itself: let others act up to ``until``."""
        self._clock.at(until, self.resume)
        self._theirs.release()
        self._mine.acquire()

    def _run(self) -> None:
        self._mine.acquire()
        try:
            self._act()
        except BaseException as error:  # noqa: BLE001  told to whoever plays this
            self._error = error
        self.over = True
        self._theirs.release()
