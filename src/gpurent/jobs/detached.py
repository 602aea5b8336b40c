"""The watchdog as other processes see it: whether there is one, what it says, how it is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

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
        return Guarding(told["pid"], told["since"], told["at"], tuple(told["tending"]), tuple(told["watching"]))
    except (OSError, ValueError, KeyError):
        return Guarding(0, 0.0, 0.0)  # it holds the lock and has not spoken yet


def start(home: Path) -> None:
    """Start a watchdog that outlives this process and its terminal, unless there is one."""
    if guarding(home) is not None:
        return
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / LOG).open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "gpurent.cli.app", "watchdog", "run"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "GPURENT_STATE_DIR": str(home)},
        )  # fmt: skip
