"""Finding and killing every process of a sandbox host, detached ones included.

A process belongs to a host when its environment carries the host's ``GPURENT_ROOT``. The folder it works in says
nothing: a user who looks around in a host's folder must not lose their shell.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

PATIENCE_S = 10.0
PAUSE_S = 0.01


def processes_under(folder: Path) -> list[psutil.Process]:
    """Live processes of the host at ``folder``, or of all hosts whose roots lie below it."""
    root = str(folder)
    own = os.getpid()
    return [process for process in psutil.process_iter() if process.pid != own and _belongs(process, root)]


def _belongs(process: psutil.Process, root: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        marked = process.environ().get("GPURENT_ROOT", "")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False  # gone meanwhile, or another user's and so none of ours
    return marked == root or marked.startswith(root + "/")


def kill_under(folder: Path) -> int:
    """SIGKILL until none is left, since a dying shell may just have forked; return how many were killed.

    Two looks must agree: a process shows no environment while it becomes another program.

    Raises:
        TimeoutError: a process outlived SIGKILL for ten seconds.
    """
    killed = 0
    until = time.monotonic() + PATIENCE_S
    while found := processes_under(folder) or _look_again(folder):
        if time.monotonic() > until:
            raise TimeoutError(f"{len(found)} processes under {folder} outlive SIGKILL")
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue  # died between the scan and the signal, which is what was wanted
            killed += 1
        time.sleep(PAUSE_S)  # a corpse that nobody buries counts as dead, so waiting for its burial would be in vain
    return killed


def _look_again(folder: Path) -> list[psutil.Process]:
    time.sleep(PAUSE_S)
    return processes_under(folder)
