"""Whether the process that conducts a run here is alive: an operating-system lock that dies with it."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from gpurent.budget.presence import Here
from gpurent.errors import UsageError
from gpurent.localfiles import private_folder

CLAIM_S = 10.0
"""The longest wait for another process that names the state folder: that takes a moment."""
PLACE = "place"
"""File of a state folder that holds its name."""


class ClientLock:
    """Held for as long as this process conducts the run in ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self._lock = FileLock(run_dir / "client.lock")

    def __enter__(self) -> Self:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                "another gpurent process conducts this run",
                hint="`gpurent logs -f` follows it, `gpurent stop` ends it.",
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def is_alive(run_dir: Path) -> bool:
    """Whether some process holds the run. Never creates the folder."""
    if not (run_dir / "client.lock").exists():
        return False
    lock = FileLock(run_dir / "client.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def here(home: Path) -> Here:
    """This computer with the state folder ``home``. Writes nothing."""
    path = home / PLACE
    return Here(socket.gethostname(), path.read_text(encoding="ascii") if path.exists() else "")


def claim(home: Path, within: float = CLAIM_S) -> Here:
    """As ``here``; gives the folder a name that no other has, unless it has one.

    Raises:
        UsageError: another process that was about to do so has not done it ``within`` seconds.
    """
    if (home / PLACE).exists():
        return here(home)
    private_folder(home)
    lock = FileLock(home / f"{PLACE}.lock")
    try:
        lock.acquire(timeout=within)
    except Timeout as error:
        raise UsageError(
            f"another gpurent process has held {lock.lock_file} for {within:.0f} s",
            hint="Is one stopped or hanging? `ps` shows it; end it, then try again.",
        ) from error
    try:
        if not (home / PLACE).exists():
            part = home / f"{PLACE}.part"
            part.write_text(uuid.uuid4().hex, encoding="ascii")
            part.replace(home / PLACE)
    finally:
        lock.release()
    return here(home)
