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
        self._presses = 0
        self._lock = threading.RLock()  # a signal handler may interrupt its own thread here
        self._clock = clock

    @property
    def level(self) -> Stop:
        """The highest level asked for so far."""
        return self._level

    def press(self) -> Stop:
        """Count one Ctrl-C more, and wake a sleeping session. The first is ``ORDERLY``, whatever was requested."""
        with self._lock:
            self._presses = min(self._presses + 1, Stop.LEAVE)
            self._level = max(self._level, Stop(self._presses))
        if self._clock is not None:
            self._clock.wake()
        return self._level

    def request(self, level: Stop) -> None:
        """Ask for at least ``level``."""
        with self._lock:
            self._level = max(self._level, level)
