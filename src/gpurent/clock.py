"""Injected time: everything that reads a clock or waits takes a ``Clock``."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

from gpurent.tasks import STEP_S, Beside, Inline, Overdue, Task, mind

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Uptime:
    """Seconds since a computer was started, and which start that was. All its processes agree, and nobody sets it."""

    boot: str
    seconds: float


class Clock(Protocol):
    """Wall time for records, monotonic time for durations, and the only way to wait."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...

    def uptime(self) -> Uptime:
        """How long this computer has been up: what measures a duration between two processes."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; a wake-up may be requested from a signal handler through ``wake``. What is minded may end it."""
        ...

    def begin(self, act: Callable[[], T]) -> Task[T]:
        """Start what may hang; ``Task.result`` waits for it, and never longer than it says."""
        ...


def side_by_side(
    clock: Clock, acts: Mapping[Key, Callable[[], T]], within: float, late: Callable[[Key, Overdue], T]
) -> dict[Key, T]:
    """Begin all, and wait ``within`` seconds for all together; ``late`` says what stands for one that did not end.

    What an act raises is raised here, and the others are left behind.
    """
    begun = {key: clock.begin(act) for key, act in acts.items()}
    until = clock.monotonic() + within
    found: dict[Key, T] = {}
    for key, task in begun.items():
        try:
            found[key] = task.result(max(0.0, until - clock.monotonic()))
        except Overdue as error:
            found[key] = late(key, error)
    return found


@cache
def _boot() -> str:
    """Which start of the computer this is. Where the system names none, the computer: uptime then tells a restart."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _elapsed() -> float:
    """Seconds that go on while the computer sleeps, where the system counts such."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    else:  # noqa: RET505  mypy reads both branches, each for its system
        return time.monotonic()


class SystemClock:
    """The machine's clock. ``wake()`` ends a running ``sleep`` early, also from a signal handler.

    A clock that is set back lengthens no deadline: ``now`` never runs slower than the time that has really passed.
    """

    def __init__(self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = _elapsed) -> None:
        self._wakes = 0
        self._slept = threading.local()
        self._wall, self._elapsed = wall, elapsed
        self._began = wall() - elapsed()

    def now(self) -> float:
        """Unix seconds."""
        return max(self._wall(), self._began + self._elapsed())

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    def uptime(self) -> Uptime:
        """How long this computer has been up, sleep included where the system counts it."""
        return Uptime(_boot(), self._elapsed())

    def not_before(self, moment: float) -> None:
        """``moment`` has passed for certain: a line of this computer's ledger says so, written by another process."""
        self._began = max(self._began, moment - self._elapsed())

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` or until ``wake``, minding what is to be minded."""
        seen = getattr(self._slept, "wakes", self._wakes)
        until = time.monotonic() + seconds
        while seen == self._wakes and (left := until - time.monotonic()) > 0:
            time.sleep(min(STEP_S, left))
            mind()
        self._slept.wakes = self._wakes

    def wake(self) -> None:
        """End every running ``sleep``, or make a thread's next one return at once.

        A plain counter: a lock could be held by the very thread that a signal handler interrupts.
        """
        self._wakes += 1

    def begin(self, act: Callable[[], T]) -> Task[T]:
        """In a thread of its own."""
        return Beside(act)


class ManualClock:
    """A clock that moves only when told or slept on: decisions over hours are tested in microseconds."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0  # by itself: beside a Unix time, a sleep of less than 0.2 µs would be rounded away

    def now(self) -> float:
        """Unix seconds."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed

    def uptime(self) -> Uptime:
        """As ``monotonic``."""
        return Uptime("manual", self.monotonic())

    def sleep(self, seconds: float) -> None:
        """Jump forward."""
        self.advance(max(0.0, seconds))

    def begin(self, act: Callable[[], T]) -> Task[T]:
        """Carried out by the caller that waits for it."""
        return Inline(act)

    def advance(self, seconds: float) -> None:
        """Move time forward by ``seconds``."""
        self._elapsed += seconds
