"""Start one process for each GPU of this machine, and end all of them together. Torch-free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpurent_engine.events import EventWriter

RENDEZVOUS = "GPURENT_RENDEZVOUS"
"""Environment: where the processes meet, as ``torch.distributed`` reads it. A file needs no port that may be taken."""
LIFELINE = "GPURENT_LIFELINE"
"""Environment: standard input is a pipe from the parent, and the process ends with it."""
GRACE_S = 60.0
"""How long the others have, once one has failed: the first saves what was learnt."""


def beside(events: Path, rank: int) -> Path:
    """Where a process that is not the first writes its events."""
    return events.with_name(f"{events.stem}.{rank}{events.suffix}")


def last_error(path: Path) -> dict[str, Any] | None:
    """The last ``error`` event of a file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        if isinstance(found, dict) and found.get("event") == "error":
            return found
    return None


def cause(events: Path, size: int, within_s: float = 2.0) -> tuple[str, str, str] | None:
    """Code, message and remedy of the error with which another process of this machine failed, if one did.

    A process that hears only that the others are gone says this instead. Waits ``within_s`` for it.
    """
    until = time.monotonic() + within_s
    while size > 1:
        for rank in range(1, size):
            error = last_error(beside(events, rank))
            if error is not None:
                return str(error.get("code")), str(error.get("message")), str(error.get("remedy"))
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return None


def run(count: int, events: Path) -> int:
    """Run this very command in ``count`` processes.

    Args:
        count: of processes, at least 2.
        events: where the first one writes. If it cannot say why it failed, this function does.

    Returns:
        Exit status of the first process, or of one that failed before it.
    """
    for rank in range(1, count):
        beside(events, rank).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpurent-") as folder:
        children = [_start(rank, count, Path(folder) / "meeting") for rank in range(count)]

        def forward(number: int, _frame: object) -> None:
            for child in children:
                if child.poll() is None:
                    child.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, forward)
        failed = _watch(children)
    first = children[0].returncode
    if failed is None:
        return int(first)
    if first in (1, 2):  # it has said why itself
        return int(first)
    error = last_error(beside(events, failed)) or {}
    with EventWriter(events) as out:
        said = f"Process {failed} of {count} ended with status {children[failed].returncode}."
        out.emit(
            "error",
            code=str(error.get("code", "internal")),
            message=str(error.get("message", said)),
            remedy=str(error.get("remedy", "The engine's log has the details.")),
        )
    return 1


def _start(rank: int, count: int, meeting: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), RENDEZVOUS: meeting.as_uri(), LIFELINE: "1",
    }  # fmt: skip
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    return subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=environment, stdin=subprocess.PIPE)


def _watch(children: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; once one fails, for ``GRACE_S`` at most. The rank of the first that failed, if any."""
    failed, until = None, 0.0
    while any(child.poll() is None for child in children):
        if failed is None:
            failed = next((rank for rank, one in enumerate(children) if one.poll() not in (None, 0, 4)), None)
            until = time.monotonic() + GRACE_S
        elif time.monotonic() > until:
            for child in children:
                child.kill()
        time.sleep(0.05)
    if failed is None:
        failed = next((rank for rank, one in enumerate(children) if one.returncode not in (0, 4)), None)
    return failed


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however it went."""
    if os.environ.pop(LIFELINE, None):
        threading.Thread(target=_hold, name="lifeline", daemon=True).start()


def _hold() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)
