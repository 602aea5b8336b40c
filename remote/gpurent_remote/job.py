"""Shell texts that start, ask after and end a detached job. All are idempotent: a lost link repeats them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

_ID = re.compile(r"[A-Za-z0-9._-]{1,80}")


def folder(job_id: str) -> str:
    """Where a job lives, below the login folder. Raises ValueError for an id that is not a plain name."""
    if not _ID.fullmatch(job_id) or job_id.startswith("."):
        raise ValueError(f"{job_id!r} is not a job id")
    return f".gpurent/jobs/{job_id}"


def start(job_id: str, argv: Sequence[str], env: Mapping[str, str]) -> str:
    """``mkdir started`` is the lock that makes a second start a no-op; ``status`` appears whole or not at all.

    The command runs in the environment of the image, as far as ``runtime`` has found it.
    """
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(env.items()))
    body = (
        f"echo $$ > pid; [ ! -r ../../enter ] || . ../../enter; "
        f"{settings} {shlex.join(argv)} > log.txt 2>&1 < /dev/null; echo $? > status.part; mv status.part status"
    )
    return (
        f"mkdir -p {folder(job_id)} && cd {folder(job_id)} && "
        f"if mkdir started 2>/dev/null; then setsid sh -c {shlex.quote(body)} > /dev/null 2>&1 < /dev/null & fi"
    )


def status(job_id: str) -> str:
    """Prints ``running`` or the exit status; -1 for a job that vanished without one."""
    return (
        f"cd {folder(job_id)} 2>/dev/null || {{ echo -1; exit 0; }}; "
        "if [ -f status ]; then cat status; "
        # between start and the first line of the wrapper there is no pid yet
        "elif [ ! -s pid ]; then "
        'if [ -d started ] && [ -z "$(find started -mmin +1)" ]; then echo running; else echo -1; fi; '
        'elif kill -0 "$(cat pid)" 2>/dev/null; then echo running; '
        "elif [ -f status ]; then cat status; else echo -1; fi"
    )


def kill(job_id: str) -> str:
    """Ends the job's whole process group: first asked, then made. dash knows ``--`` after ``-s`` only."""
    return (
        f"cd {folder(job_id)} 2>/dev/null && [ -s pid ] || exit 0; p=$(cat pid); "
        'kill -s TERM -- "-$p" 2>/dev/null || exit 0; '
        'for i in 1 2 3 4 5 6 7 8 9 10; do kill -s 0 -- "-$p" 2>/dev/null || exit 0; sleep 0.3; done; '
        'kill -s KILL -- "-$p" 2>/dev/null; exit 0'
    )
