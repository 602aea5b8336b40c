"""A real SSH server that lies to order, in a process of its own: what it sends costs the memory of its client only.

Started as ``python -m tests.hostile.server FOLDER``. ``FOLDER/orders.json`` says which lies it tells; it is read again
for every command and file. What is not ordered is done honestly, by a shell and by SFTP below ``FOLDER/host``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncssh
from asyncssh.constants import FX_FAILURE
from asyncssh.packet import String

from gpurent_sandbox.faults import Faults
from gpurent_sandbox.link import Link
from gpurent_sandbox.sshd import HostFiles, HostServer, serve_command

PATH = "/usr/local/bin:/usr/bin:/bin"
CHUNK = b"x" * 65536
_PROGRAM = re.compile(r'import base64;exec\(base64\.b64decode\("([^"]+)"\)\)')


@dataclass(frozen=True)
class Answer:
    """Instead of running a command that matches ``command``."""

    command: str
    stdout: bytes = b""
    stderr: bytes = b""
    status: int = 0
    flood: str = ""
    """``stdout`` or ``stderr``: bytes without end."""
    signal: str = ""
    silent: bool = False
    """The channel is closed without a status."""


@dataclass(frozen=True)
class Lie:
    """About files whose path ends in ``path``."""

    path: str
    error: str = ""
    """Refused with this text."""
    size: int | None = None
    """What a look at it says."""
    longer: int = 0
    """Bytes more than were asked for, in every answer."""
    endless: bytes = b""
    """Repeated instead of its content, without end."""


@dataclass(frozen=True)
class Orders:
    """Everything that is not as it seems."""

    answers: tuple[Answer, ...] = ()
    lies: tuple[Lie, ...] = ()
    packet: int = 0
    """Bytes of an SSH packet that is sent after the login, unasked."""
    window: int = 0
    """Bytes that are sent into every channel beyond its window."""

    def write(self, path: Path) -> None:
        """For the server to read."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), default=lambda data: base64.b64encode(data).decode()))
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Orders:
        """What a test ordered."""
        given = json.loads(path.read_text())
        answers = (
            Answer(**{**one, "stdout": base64.b64decode(one["stdout"]), "stderr": base64.b64decode(one["stderr"])})
            for one in given.pop("answers")
        )
        lies = (Lie(**{**one, "endless": base64.b64decode(one["endless"])}) for one in given.pop("lies"))
        return cls(tuple(answers), tuple(lies), **given)


class Files(HostFiles):
    """SFTP with lies."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], orders: Path, root: Path, link: Link) -> None:
        super().__init__(channel, root, link, "root")
        self._orders = orders
        self._names: dict[int, bytes] = {}

    def _lie(self, path: bytes) -> Lie:
        found = (one for one in Orders.read(self._orders).lies if path.endswith(one.path.encode()))
        return next(found, Lie(""))

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        lie = self._lie(path)
        if lie.error:
            raise asyncssh.SFTPError(FX_FAILURE, lie.error)
        if lie.endless or lie.size is not None:
            Path(self.map_path(path).decode()).parent.mkdir(parents=True, exist_ok=True)
            Path(self.map_path(path).decode()).touch()
        opened = super().open(path, pflags, attrs)
        self._names[id(opened)] = path
        return opened

    def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        shown = super().fstat(file_obj)
        assert isinstance(shown, os.stat_result)
        found = asyncssh.SFTPAttrs.from_local(shown)
        size = self._lie(self._names.get(id(file_obj), b"")).size
        found.size = found.size if size is None else size
        return found

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        lie = self._lie(self._names.get(id(file_obj), b""))
        if lie.endless:
            text = lie.endless
            start = offset % len(text)
            data = (text * (size // len(text) + 2))[start : start + size]
        else:
            data = await super().read(file_obj, offset, size)
        return data + b"x" * lie.longer


def spoken(command: str) -> tuple[bytes, str]:
    """The marker that the client waits for, and its command as it was before it was quoted for any login shell."""
    if not command.startswith("exec /bin/sh -c "):
        return b"", command
    inner = shlex.split(command)[3]
    if inner.startswith("eval "):
        inner = bytes(int(digits, 8) for digits in re.findall(r"\\0([0-7]{3})", inner)).decode()
    mark, _, asked = inner.removeprefix("echo ").partition("; ")
    return f"{mark}\n".encode(), _PROGRAM.sub(lambda one: base64.b64decode(one[1]).decode(), asked)


async def command(process: asyncssh.SSHServerProcess[bytes], orders: Path, root: Path, link: Link) -> None:
    """Run it, or lie about it."""
    told = Orders.read(orders)
    if told.window:
        await flood_window(process, told.window)
    mark, asked = spoken(process.command or "")
    answer = next((one for one in told.answers if re.search(one.command, asked)), None)
    if answer is None:
        environment = {"PATH": PATH, "HOME": str(root / "root"), "LC_ALL": "C.UTF-8"}
        await serve_command(process, link, environment, root / "root")
        return
    try:
        process.stdout.write(mark + answer.stdout)
        process.stderr.write(answer.stderr)
        while answer.flood:
            target = getattr(process, answer.flood)
            target.write(CHUNK)
            await target.drain()
    except (asyncssh.Error, OSError):
        return  # the client has had enough
    if answer.silent:
        process.close()
    elif answer.signal:
        process.exit_with_signal(answer.signal)
    else:
        process.exit(answer.status)


async def flood_window(process: asyncssh.SSHServerProcess[bytes], size: int) -> None:
    """Send into a channel what its window does not allow."""
    channel = process.channel
    for _ in range(size // len(CHUNK)):
        channel.send_packet(asyncssh.constants.MSG_CHANNEL_DATA, String(CHUNK[:32768]))
        channel.send_packet(asyncssh.constants.MSG_CHANNEL_DATA, String(CHUNK[:32768]))
        await asyncio.sleep(0)


class Server(HostServer):
    """Admits the client, and greets it as ordered."""

    def __init__(self, key: str, orders: Path, link: Link) -> None:
        super().__init__(lambda: [key], link)
        self._orders = orders

    def auth_completed(self) -> None:
        """The client believes from now on that it is served."""
        size = Orders.read(self._orders).packet
        if size and self._connection is not None:
            self._connection.send_packet(asyncssh.constants.MSG_IGNORE, String(b"x" * size))


async def endless_banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never come to the point: no end of lines before the version, and no end of line."""
    try:
        while not reader.at_eof():
            writer.write(CHUNK)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


async def serve(folder: Path) -> None:
    """Until killed."""
    orders, root = folder / "orders.json", folder / "host"
    python = root / "root/venv/bin/python3"  # where the client looks for one
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    link = Link(Faults(random.Random(1)), lambda _in, _out: None)
    key = (folder / "client.pub").read_text()
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[str(folder / "host_key")], encoding=None,
        server_factory=lambda: Server(key, orders, link),
        process_factory=lambda process: command(process, orders, root, link),
        sftp_factory=lambda channel: Files(channel, orders, root, link),
    )  # fmt: skip
    banner = await asyncio.start_server(endless_banner, "127.0.0.1", 0)
    print(server.get_port(), banner.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
