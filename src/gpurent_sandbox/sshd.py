"""What one SSH connection may do on a host: log in by key, run shell commands, move files over SFTP."""

from __future__ import annotations

import asyncio
import posixpath
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import asyncssh

from gpurent_sandbox.link import Link

CHUNK = 65536


class HostServer(asyncssh.SSHServer):
    """Admits one user with one of the keys that ``admitted`` lists at that moment."""

    def __init__(self, admitted: Callable[[], list[str]], link: Link, user: str = "root") -> None:
        self._user = user
        self._admitted = admitted
        self._link = link
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Remember the connection so that it can be cut."""
        self._connection = conn
        self._link.opened(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget it."""
        if self._connection is not None:
            self._link.closed(self._connection)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        """Nobody gets in without a key."""
        return True

    def public_key_auth_supported(self) -> bool:
        """The only way in."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether ``key`` is admitted now."""
        return username == self._user and any(_same(line, key) for line in self._admitted())


def _same(line: str, key: asyncssh.SSHKey) -> bool:
    fields = line.split()
    wanted = key.export_public_key("openssh").split()[1].decode()
    return wanted in fields[:4] and not line.lstrip().startswith("#")


class Noisy:
    """A session whose login shell says something before every command."""

    def __init__(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self._process = process

    @property
    def command(self) -> str | None:
        """What is run in its place."""
        given = self._process.command
        return None if given is None else f"echo 'Activating the environment ...'; {given}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)


async def serve_command(
    process: asyncssh.SSHServerProcess[bytes] | Noisy, link: Link, environment: Mapping[str, str], home: Path
) -> None:
    """Run one command (or a shell that reads standard input); stream all three channels to their end."""
    argv = ["/bin/sh"] if process.command is None else ["/bin/sh", "-c", process.command]
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment), cwd=home, start_new_session=True
    )
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    feeding = asyncio.create_task(_feed(process, child, child.stdin, link))
    # Like OpenSSH, the channel stays open until every process that inherited the output has closed it.
    await asyncio.gather(
        _drain(child.stdout, process.stdout, link), _drain(child.stderr, process.stderr, link), child.wait()
    )
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    status = child.returncode or 0
    try:
        if status < 0:
            process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        else:
            process.exit(status)
    except OSError:
        link.cut()  # the client went away first: nobody is left to tell


async def _feed(
    process: asyncssh.SSHServerProcess[bytes] | Noisy,
    child: asyncio.subprocess.Process,
    stdin: asyncio.StreamWriter,
    link: Link,
) -> None:
    while True:
        try:
            data = await process.stdin.read(CHUNK)
        except asyncssh.SignalReceived as received:
            number = signal.Signals.__members__.get(f"SIG{received.signal}")
            if number is not None and child.returncode is None:
                child.send_signal(number)
            continue
        except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
            continue
        except (asyncssh.Error, OSError):
            data = b""  # the connection broke: the command sees the end of its input and goes on
        try:
            if not data:
                stdin.close()
                return
            await link.carry(in_bytes=len(data))
            stdin.write(data)
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            return  # the command does not read its input


async def _drain(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes], link: Link) -> None:
    listening = True
    while data := await source.read(CHUNK):
        if not listening:
            continue
        try:
            await link.carry(out_bytes=len(data))
            target.write(data)
            await target.drain()
        except (asyncssh.Error, OSError):
            listening = False  # read on, so that a command outlives its lost connection


def sftp_factory(
    root: Path, link: Link, home: str = "root"
) -> Callable[[asyncssh.SSHServerChannel[bytes]], asyncssh.SFTPServer]:
    """Make SFTP sessions for the host at ``root``, which begin in ``home`` below it."""
    return lambda channel: HostFiles(channel, root, link, home)


class HostFiles(asyncssh.SFTPServer):
    """Files of one host. Relative paths start in its login folder; nothing outside its root can be named."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], root: Path, link: Link, home: str) -> None:
        super().__init__(channel)
        self._root = str(root).encode()
        self._home = home.encode()
        self._link = link

    def map_path(self, path: bytes) -> bytes:
        """Resolve against the login folder."""
        full = posixpath.normpath(posixpath.join(self._root, self._home, path))
        if full != self._root and not full.startswith(self._root + b"/"):
            raise asyncssh.SFTPPermissionDenied("outside of this host")
        return full

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        """Read, and count the bytes as outbound."""
        data = super().read(file_obj, offset, size)
        assert isinstance(data, bytes)
        await self._link.carry(out_bytes=len(data))
        return data

    async def write(self, file_obj: object, offset: int, data: bytes) -> int:
        """Count the bytes as inbound, and write."""
        await self._link.carry(in_bytes=len(data))
        written = super().write(file_obj, offset, data)
        assert isinstance(written, int)
        return written
