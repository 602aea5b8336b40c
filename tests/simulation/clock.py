"""Virtual time with a schedule: sleeping runs everything that falls due meanwhile, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

START = 1_800_000_000.0


class VirtualClock:
    """A ``Clock`` on which hours take microseconds."""

    def __init__(self) -> None:
        self._now = START
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def now(self) -> float:
        """Unix seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the beginning of this world."""
        return self._now - START

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(self._now + max(0.0, seconds))

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._due, (max(moment, self._now), next(self._order), act))

    def run_until(self, moment: float) -> None:
        """Let time pass up to ``moment``; what acts may let more of it pass."""
        while self._due and self._due[0][0] <= moment:
            due, _, act = heapq.heappop(self._due)
            self._now = max(self._now, due)
            act()
        self._now = max(self._now, moment)
