"""A worker of the watchdog: one process that sees one dead client's run to its end, and shows that it is at work.

A process, because one that hangs can be killed, and lets go of everything then, the lock of its run included. A thread
cannot.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from gpurent.clock import Clock
from gpurent.localfiles import private_folder
from gpurent.tasks import minding

SIGN = "tended"
"""File in a run's folder whose time is the worker's last sign of life."""
SIGN_S = 1.0
KILL_S = 5.0
HANG_S = 120.0
"""A worker that shows no sign of life for so long hangs: all of its waits show one."""


class Worker(Protocol):
    """Somebody who sees a run to its end."""

    def at_work(self) -> bool:
        """Whether it has not ended."""
        ...

    def silent_s(self) -> float:
        """Seconds since its last sign of life."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Process:
    """A worker in a process of its own, which ends with the one that started it."""

    def __init__(self, home: Path, run_id: str, folder: Path) -> None:
        self._sign = home / "runs" / run_id / SIGN
        self._started = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gpurent.cli.app", "watchdog", "tend", run_id, "--folder", str(folder)],
            stdin=subprocess.PIPE, env={**os.environ, "GPURENT_STATE_DIR": str(home)}, cwd=home,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def let_go(self) -> None:
        """Close our end of its pipe, as our own death does."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def at_work(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def silent_s(self) -> float:
        """Seconds since it touched its file, or was started."""
        try:
            shown = self._sign.stat().st_mtime
        except OSError:
            shown = 0.0
        return max(0.0, time.time() - max(shown, self._started))

    def kill(self) -> None:
        """SIGKILL, and wait a while for the corpse: only then its locks are free."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # the kernel holds it: it is still at work, and killed again
            self._process.wait(KILL_S)
        self.let_go()


@contextmanager
def shown(run_dir: Path, clock: Clock) -> Iterator[None]:
    """While this block runs, every wait of this thread shows a sign of life."""
    sign = run_dir / SIGN
    due = 0.0

    def show() -> None:
        nonlocal due
        if clock.monotonic() >= due:
            due = clock.monotonic() + SIGN_S
            with suppress(OSError):  # on a full disk it counts as hanging after a while, and is started again
                sign.touch()

    private_folder(run_dir)
    with minding(show):
        yield


def end_with(parent: BinaryIO) -> None:
    """End this process when the other end of ``parent``, a pipe, is closed: however the watchdog died."""

    def wait() -> None:
        parent.read()
        os._exit(1)  # no clean-up: the next process finds everything in the ledger, as after any death

    threading.Thread(target=wait, daemon=True).start()
