"""How a user's wish to stop reaches a running session: escalating, from signals or from another process."""

from __future__ import annotations

import threading
from enum import IntEnum

from gpurent.clock import SystemClock


class Stop(IntEnum):
    """What the user wants; each level includes the ones below."""

    NONE = 0
    ORDERLY = 1
    """Save a checkpoint, collect, destroy."""
    NOW = 2
    """Destroy at once; what is not home is lost."""
    LEAVE = 3
    """Leave the rental to the guards that remain."""


class Interrupt:
    """A level that only rises. ``press`` is what one Ctrl-C does; safe in a signal handler."""

    def __init__(self, clock: SystemClock | None = None) -> None:
        self._level = Stop.NONE
        self._lock = threading.RLock()  # a signal handler may interrupt its own thread here
        self._clock = clock

    @property
    def level(self) -> Stop:
        """The highest level asked for so far."""
        return self._level

    def press(self) -> Stop:
        """Go one level up and wake a sleeping session."""
        with self._lock:
            self._level = Stop(min(self._level + 1, Stop.LEAVE))
        if self._clock is not None:
            self._clock.wake()
        return self._level

    def request(self, level: Stop) -> None:
        """Ask for at least ``level``."""
        with self._lock:
            self._level = max(self._level, level)
