"""Whether the process that conducts a run is alive: an operating-system lock that dies with it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from gpurent.errors import UsageError


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
