"""Injected time: everything that reads a clock or waits takes a ``Clock``."""

from __future__ import annotations

import threading
import time
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


class SystemClock:
    """The machine's clock. ``wake()`` ends a running ``sleep`` early, also from a signal handler."""

    def __init__(self) -> None:
        self._wake = threading.Event()

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

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
