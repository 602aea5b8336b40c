"""Injected time: everything that reads a clock or waits takes a ``Clock``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for durations, and the only way to wait."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; a wake-up may be requested from a signal handler through ``wake``."""
        ...


def _elapsed() -> float:
    """Seconds that go on while the computer sleeps, where the system counts such."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class SystemClock:
    """The machine's clock. ``wake()`` ends a running ``sleep`` early, also from a signal handler.

    A clock that is set back lengthens no deadline: ``now`` never runs slower than the time that has really passed.
    """

    def __init__(self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = _elapsed) -> None:
        self._wake = threading.Event()
        self._wall, self._elapsed = wall, elapsed
        self._began = wall() - elapsed()

    def now(self) -> float:
        """Unix seconds."""
        return max(self._wall(), self._began + self._elapsed())

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    def not_before(self, moment: float) -> None:
        """``moment`` has passed for certain: a line of this computer's ledger says so, written by another process."""
        self._began = max(self._began, moment - self._elapsed())

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` or until ``wake``."""
        if self._wake.wait(max(0.0, seconds)):
            self._wake.clear()

    def wake(self) -> None:
        """End a running ``sleep``, or make the next one return at once."""
        self._wake.set()


class ManualClock:
    """A clock that moves only when told or slept on: decisions over hours are tested in microseconds."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._start = start

    def now(self) -> float:
        """Unix seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._now - self._start

    def sleep(self, seconds: float) -> None:
        """Jump forward."""
        self.advance(max(0.0, seconds))

    def advance(self, seconds: float) -> None:
        """Move time forward by ``seconds``."""
        self._now += seconds
