"""The watchdog as other processes see it: whether there is one, what it says, how it is started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from gpurent.clock import Clock
from gpurent.localfiles import private_folder

LOCK, STATE, LOG = "watchdog.lock", "watchdog.json", "watchdog.log"
HANG_S = 180.0
"""A watchdog that has taken no turn for so long hangs: a turn comes every ten seconds, and none waits for a host."""
END_S = 5.0
"""For a process that was killed to be gone."""
if sys.platform == "win32":
    APART = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS
else:
    APART = 0
"""What lets a process outlive a console of Windows; elsewhere a session of its own does."""


@dataclass(frozen=True, slots=True)
class Guarding:
    """What the watchdog of a state folder says of itself."""

    pid: int
    since: float
    at: float
    """Unix seconds of its last turn."""
    tending: tuple[str, ...] = ()
    """Runs that it has taken over."""
    watching: tuple[str, ...] = ()
    """Runs whose clients are alive."""
    providers: tuple[str, ...] = ()
    """Those that it has keys for, and so can end rentals of."""


def guarding(home: Path) -> Guarding | None:
    """What the watchdog of this state folder says; None when there is none."""
    lock = FileLock(home / LOCK)
    if not (home / LOCK).exists():
        return None
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pass
    else:
        lock.release()
        return None
    try:
        told = json.loads((home / STATE).read_text(encoding="utf-8"))
        lists = (tuple(told[name]) for name in ("tending", "watching", "providers"))
        return Guarding(told["pid"], told["since"], told["at"], *lists)
    except (OSError, ValueError, KeyError):
        return Guarding(0, 0.0, 0.0)  # it holds the lock and has not spoken yet


def heard(home: Path, clock: Clock, patience_s: float = 15.0) -> Guarding | None:
    """As ``guarding``, and one that was only just started is waited for."""
    until = clock.monotonic() + patience_s
    while (told := guarding(home)) is None or not told.pid:
        if clock.monotonic() >= until:
            return None
        clock.sleep(0.1)
    return told


@dataclass
class Rouser:
    """Sees to it that the watchdog of a state folder is there and looks, again and again, as long as a client lives."""

    home: Path
    clock: Clock
    _seen: float = field(default=0.0, init=False)
    """The last turn that it told of."""
    _since: float = field(default=0.0, init=False)
    """When that was first seen, in seconds that do not pass while the computer sleeps."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False)
    """Those that this process has started, until they are buried."""

    def __call__(self) -> None:
        """Start one if there is none, and in place of one that has taken no turn for ``HANG_S``."""
        self.started = [process for process in self.started if process.poll() is None]
        told = guarding(self.home)
        if told is not None and told.pid and told.at == self._seen:
            if self.clock.monotonic() - self._since > HANG_S:
                self._end(told.pid)
                told = None
        elif told is not None:
            self._seen, self._since = told.at, self.clock.monotonic()
        if told is None:
            self.started.append(_start(self.home))

    def renew(self, pid: int) -> Guarding | None:
        """Replace a watchdog by one with the keys of this process, which has all that the old one had.

        What the old one guarded is in the ledger: the new one takes it over with its first turn.
        """
        self._end(pid)
        self.started.append(_start(self.home))
        return heard(self.home, self.clock)

    def _end(self, pid: int) -> None:
        """SIGKILL: it may be stopped. Its workers end with it, and the next one takes over what it guarded."""
        _kill(pid)
        until = self.clock.monotonic() + END_S
        while guarding(self.home) is not None and self.clock.monotonic() < until:
            self.clock.sleep(0.1)
        (self.home / STATE).unlink(missing_ok=True)  # what it said is not to be taken for its successor's words


def _kill(pid: int) -> None:
    """End a process at once; one that is gone already is none."""
    if sys.platform == "win32":  # any signal ends a process there, and a number that nobody has is a wrong argument
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)
    else:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _start(home: Path) -> subprocess.Popen[bytes]:
    """Start a watchdog that outlives this process, its terminal and its working folder."""
    home = home.resolve()
    private_folder(home)
    with (home / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "gpurent.cli.app", "watchdog", "run"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, creationflags=APART,
            env={**os.environ, "GPURENT_STATE_DIR": str(home)}, cwd=home,
        )  # fmt: skip
