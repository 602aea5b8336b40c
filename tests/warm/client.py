"""Commands that start in milliseconds: a process that has imported what they need (``nursery.py``) forks for each.

Importing it again takes most of a second, and the tests start hundreds of commands. What is forked is a process of its
own, with arguments, environment, folder, streams and session as given; it imports the command line itself and ends as
a program ends. ``/proc`` alone tells it from a program that was started afresh: there it has the arguments and the
environment of the process that forked.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, TypeAlias

from tests.warm.nursery import PRELOADED, Order

ROOT = Path(__file__).parents[2]
EARLY = ("LANG", "LC_ALL", "PYTHONIOENCODING", "PYTHONPATH", "PYTHONUTF8", "PYTHONWARNINGS")
"""Variables that Python itself reads as it starts: a command has them as this process has them."""


@dataclass(frozen=True)
class Nest:
    """What commands are forked from: a Python, and what it has imported."""

    python: str = sys.executable
    preloaded: tuple[str, ...] = PRELOADED


OURS = Nest()


class Command:
    """A started command: as much of ``subprocess.Popen`` as tests use, with text for standard output."""

    def __init__(self, told: int, stdout: IO[str] | None, argv: Sequence[str]) -> None:
        self._told = os.fdopen(told, encoding="ascii")
        self.pid = int(self._told.readline())
        self.args, self.stdout, self.stdin, self.stderr = argv, stdout, None, None
        self.returncode: int | None = None

    def __repr__(self) -> str:
        return f"<Command {self.args!r} returncode: {self.returncode}>"

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it lives."""
        return self._ended(0.0)

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._told, selectors.EVENT_READ)
                if selector.select(seconds):
                    self.returncode = int(self._told.readline())
                    self._told.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end."""
        ended = self._ended(timeout)
        if ended is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return ended

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read standard output to its end, and wait."""
        until = None if timeout is None else time.monotonic() + timeout
        read = bytearray()
        if self.stdout is not None and not self.stdout.closed:
            with selectors.DefaultSelector() as selector:
                selector.register(self.stdout, selectors.EVENT_READ)
                while selector.select(None if until is None else max(0.0, until - time.monotonic())):
                    if not (data := os.read(self.stdout.fileno(), 65536)):
                        break
                    read += data
                else:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0, bytes(read))
            self.stdout.close()
        self.wait(None if until is None else max(0.0, until - time.monotonic()))
        return read.decode(), ""

    def send_signal(self, number: int) -> None:
        """As ``kill``; nothing is sent to what has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


Process: TypeAlias = "Command | subprocess.Popen[str]"
"""However it was started."""


def start(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], main: str = "gpurent.cli.app:main",
    stdin: int | None = None, stdout: int | None = None, stderr: int | None = None,
    start_new_session: bool = False, terminal: bool = False, nest: Nest = OURS,
) -> Command:  # fmt: skip
    """Start a command; ``stdin`` to ``stderr`` as for ``subprocess.Popen``, a pipe for standard output only."""
    assert all(env.get(name) == os.environ.get(name) for name in EARLY), "start it afresh"
    ours: IO[str] | None = None
    opened: list[int] = []

    def stream(wanted: int | None, number: int, flags: int) -> int:
        if wanted is None:
            return number
        if wanted == subprocess.DEVNULL:
            opened.append(os.open(os.devnull, flags))
            return opened[-1]
        return wanted

    if stdout == subprocess.PIPE:
        reading, stdout = os.pipe()
        opened.append(stdout)
        ours = os.fdopen(reading, encoding="utf-8")
    streams = [stream(stdin, 0, os.O_RDONLY), stream(stdout, 1, os.O_WRONLY)]
    streams.append(streams[1] if stderr == subprocess.STDOUT else stream(stderr, 2, os.O_WRONLY))
    told, tell = os.pipe()
    opened.append(tell)
    order = Order(argv, str(cwd), dict(env), main, start_new_session, terminal)
    try:
        text = json.dumps(asdict(order)).encode()
        server = _server(nest)
        socket.send_fds(server, [len(text).to_bytes(4, "big")], [*streams, tell])
        server.sendall(text)
    finally:
        for one in opened:
            os.close(one)
    return Command(told, ours, argv)


def run(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], main: str = "gpurent.cli.app:main", typed: str = "",
    timeout: float, nest: Nest = OURS,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a command to its end, with ``typed`` as its standard input; both of its outputs are captured."""
    with ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(typed.encode())
        given.seek(0)
        command = start(
            argv, cwd=cwd, env=env, main=main, stdin=given.fileno(), stdout=out.fileno(), stderr=err.fileno(), nest=nest
        )
        try:
            status = command.wait(timeout)
        finally:
            command.kill()
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
        return subprocess.CompletedProcess(argv, status, *texts)


@cache
def _server(nest: Nest) -> socket.socket:
    """Started with the first command of a test process, and ended with it."""
    ours, theirs = socket.socketpair()
    program = f"from tests.warm.nursery import wait_for_orders; wait_for_orders({nest.preloaded!r})"
    server = subprocess.Popen(
        [nest.python, "-c", program], stdin=theirs.fileno(), cwd=ROOT, start_new_session=True
    )  # fmt: skip
    theirs.close()

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours
