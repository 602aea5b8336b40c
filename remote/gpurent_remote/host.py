"""A rented machine over SSH: the implementation of ``spi.Host``."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import paramiko
from fabric import Connection
from invoke.exceptions import WatcherError
from invoke.watchers import StreamWatcher

from gpurent.clock import Clock
from gpurent.errors import CommandFailed, HostUnreachable, TransferFailed
from gpurent.spi import Completed, Host, LocalFile
from gpurent_remote import bundle, job
from gpurent_remote import files as transfer
from gpurent_remote.edge import translated

T = TypeVar("T")
MAX_OUTPUT = 1024 * 1024
PATIENCE_S = 60.0


class SshHost:
    """One machine, one connection at a time; a lost one is made anew until ``patience_s`` is over."""

    def __init__(self, dial: Callable[[], Connection], clock: Clock, patience_s: float = PATIENCE_S) -> None:
        self._dial = dial
        self._clock = clock
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._connection: Any = dial()
        self._sftp: paramiko.SFTPClient | None = None

    def run(self, command: str, *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """Run a shell command; a lost link repeats it, so commands are idempotent."""
        return self._insist("running a command", lambda: self._run(command, stdin, timeout))

    def put(
        self, files: Sequence[LocalFile], folder: str, on_bytes: Callable[[int], None] = lambda _count: None
    ) -> None:
        """Send files; after a cut only what is missing."""
        told = _Highest(on_bytes)
        self._insist(
            "sending files", lambda: transfer.put(self._open_sftp(), self._python, files, folder, told.restart())
        )

    def put_bytes(self, data: bytes, path: str, mode: int = 0o600) -> None:
        """Write a small file atomically."""
        self._insist(f"writing {path}", lambda: transfer.put_bytes(self._open_sftp(), data, path, mode))

    def fetch(
        self, path: str, target: Path, *, sha256: str, size: int,
        on_bytes: Callable[[int], None] = lambda _count: None, accept: Callable[[Path], None] = lambda _path: None,
    ) -> None:  # fmt: skip
        """Bring one file home, verified."""
        told = _Highest(on_bytes)
        self._insist(
            f"fetching {path}",
            lambda: transfer.fetch(self._open_sftp(), path, target, sha256, size, told.restart(), accept),
        )

    def read(self, path: str, offset: int, limit: int) -> bytes:
        """Part of a file, empty where there is none."""
        return self._insist(f"reading {path}", lambda: transfer.read(self._open_sftp(), path, offset, limit))

    def start_job(self, job_id: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a command detached, once."""
        ended = self.run(job.start(job_id, argv, env))
        if ended.status != 0:
            raise CommandFailed(f"the job did not start: {ended.stderr.strip()[-300:]}", status=ended.status)

    def job_status(self, job_id: str) -> int | None:
        """Exit status of a job, None while it runs."""
        ended = self.run(job.status(job_id))
        word = ended.stdout.strip()
        if word == "running":
            return None
        try:
            return int(word)
        except ValueError as error:
            raise TransferFailed(f"the host answered {word[:40]!r} where a job's status was asked") from error

    def kill_job(self, job_id: str) -> None:
        """End a job's process group."""
        self.run(job.kill(job_id))

    def ship_engine(self) -> str:
        """Send the engine unless this very version lies there already."""
        built = bundle.build()
        folder = f".gpurent/engine/{built.digest}"
        if self.run(f"test -f {folder}/gpurent_engine/__main__.py").status == 0:
            return folder
        self.put_bytes(built.data, f"{folder}.zip")
        unpack = (
            f"rm -rf {folder}.new && python3 -m zipfile -e {folder}.zip {folder}.new"
            f" && {{ mv -T {folder}.new {folder} || test -d {folder}; }}"
        )
        ended = self.run(unpack)
        if ended.status != 0:
            raise CommandFailed(
                f"the engine could not be unpacked: {ended.stderr.strip()[-300:]}",
                status=ended.status,
                hint="The image needs python3 >= 3.10 in its PATH.",
            )
        return folder

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._drop()

    def _run(self, command: str, stdin: bytes | None, timeout: float) -> Completed:
        # invoke raises on a time-out; hide keeps the host's words out of our terminal
        result = self._connection.run(
            command, hide=True, warn=True, timeout=timeout, in_stream=BytesIO(stdin) if stdin is not None else False,
            encoding="utf-8", echo_stdin=False, watchers=[_Cap()],
        )  # fmt: skip
        if result.exited == -1:  # no status came: a signal killed the command, unless it was the link that died
            self._connection.transport.open_session(timeout=10).close()
        return Completed(int(result.exited), result.stdout, result.stderr)

    def _python(self, script: str, stdin: bytes) -> str:
        transport = self._connection.transport
        channel = transport.open_session(timeout=30)
        with channel:
            channel.exec_command(f"python3 -c {shlex.quote(script)}")
            channel.sendall(stdin)
            channel.shutdown_write()
            with channel.makefile("rb") as out:
                answer: bytes = out.read(64 * MAX_OUTPUT)
            status = channel.recv_exit_status()
        if status != 0:
            raise CommandFailed("the host's python3 failed", status=status, hint="The image needs python3 in its PATH.")
        return answer.decode()

    def _open_sftp(self) -> paramiko.SFTPClient:
        if self._sftp is None:
            transport = self._connection.transport
            if transport is None:
                raise HostUnreachable("the connection is closed")
            self._sftp = paramiko.SFTPClient.from_transport(transport)
        if self._sftp is None:
            raise HostUnreachable("the host offers no SFTP")
        return self._sftp

    def _insist(self, what: str, act: Callable[[], T]) -> T:
        with self._lock:
            until = self._clock.monotonic() + self._patience_s
            wait = 0.5
            while True:
                try:
                    with translated(what):
                        if self._connection is None:
                            self._connection = self._dial()
                        return act()
                except HostUnreachable:
                    self._drop()
                    if self._clock.monotonic() >= until:
                        raise
                    self._clock.sleep(wait)
                    wait = min(8.0, wait * 2)

    def _drop(self) -> None:
        connection, self._connection, self._sftp = self._connection, None, None
        if connection is not None:
            with translated("closing"):
                connection.close()


class _Cap(StreamWatcher):  # type: ignore[misc]  # invoke is untyped
    """Ends a command that answers with more than anybody would read."""

    def submit(self, stream: str) -> list[str]:
        """Look at everything that came so far."""
        if len(stream) > MAX_OUTPUT:
            raise WatcherError("the host answered a command with more than 1 MiB")
        return []


class _Highest:
    """Passes on only bytes beyond what an earlier attempt had reported, so that progress never runs backwards."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._best = 0

    def restart(self) -> Callable[[int], None]:
        """Count from zero again for the next attempt."""
        here = 0

        def moved(count: int) -> None:
            nonlocal here
            here += count
            if here > self._best:
                new, self._best = here - self._best, here
                self._tell(new)

        return moved


if TYPE_CHECKING:
    _: type[Host] = SshHost
