"""The watchdog as other processes see it: whether there is one, what it says, how it is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from gpurent.clock import Clock
from gpurent.localfiles import private_folder

LOCK, STATE, LOG = "watchdog.lock", "watchdog.json", "watchdog.log"


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


def start(home: Path) -> None:
    """Start a watchdog that outlives this process, its terminal and its working folder, unless there is one."""
    if guarding(home) is not None:
        return
    home = home.resolve()
    private_folder(home)
    with (home / LOG).open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "gpurent.cli.app", "watchdog", "run"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "GPURENT_STATE_DIR": str(home)}, cwd=home,
        )  # fmt: skip
