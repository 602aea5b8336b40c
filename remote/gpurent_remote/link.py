"""One SSH connection as something that can be cut at any moment, from any thread, without waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paramiko
from fabric import Connection

from gpurent.clock import Clock
from gpurent.errors import HostUnfit, HostUnreachable
from gpurent.sockets import Wire
from gpurent.tasks import Abandoned
from gpurent_remote.bounded import BoundedSftp

OPEN_S = 30.0
"""How long a machine may take to open a channel."""


class Link:
    """An open connection. Safe to use from several threads: each operation has a channel of its own."""

    def __init__(self, connection: Connection, wire: Wire) -> None:
        self.connection: Any = connection  # fabric is untyped
        self._wire = wire
        self._lock = threading.Lock()
        self._idle: list[paramiko.SFTPClient] = []

    @property
    def transport(self) -> paramiko.Transport:
        """The SSH transport. Raises HostUnreachable when the connection has ended."""
        transport: paramiko.Transport | None = self.connection.transport
        if transport is None or not transport.is_active():
            raise HostUnreachable("the connection has ended")
        return transport

    @property
    def dead(self) -> bool:
        """Whether it was cut or has ended."""
        transport = self.connection.transport
        return self._wire.is_cut or transport is None or not transport.is_active()

    @contextmanager
    def sftp(self) -> Iterator[paramiko.SFTPClient]:
        """An SFTP session that nobody else uses meanwhile: two requests on one session may take each other's answer."""
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = _new_sftp(self.transport)
        try:
            yield session
        except BaseException:
            session.close()  # answers to what was asked ahead may still come
            raise
        with self._lock:
            self._idle.append(session)

    def cut(self, clock: Clock) -> None:
        """End it at once; what closing needs to wait for, it waits for by itself."""
        self._wire.cut()
        clock.begin(self.connection.close)


def _new_sftp(transport: paramiko.Transport) -> BoundedSftp:
    """Open a session. Raises HostUnfit where the server knows no SFTP, which no patience will change."""
    channel = transport.open_session(timeout=OPEN_S)
    try:
        channel.invoke_subsystem("sftp")
    except (paramiko.SSHException, EOFError) as error:
        if not transport.is_active():
            raise
        raise HostUnfit(
            "no_sftp",
            "the machine's SSH server has no SFTP, without which no file can be sent",
            image=True,
            hint="Choose an image with an SFTP server (openssh-sftp-server): [need] image in gpurent.toml.",
        ) from error
    return BoundedSftp(channel)


class Pulse:
    """What an operation tells of its progress: from its own thread to the one that waits for it."""

    def __init__(self, clock: Clock, silence_s: float) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._bytes = 0
        self._left = False
        self._quiet_until = 0.0
        self.allow(silence_s)

    def allow(self, silence_s: float) -> None:
        """From now on that many seconds may pass without a byte."""
        self._silence_s = silence_s
        self._quiet_until = self._clock.monotonic() + silence_s

    def moved(self, count: int) -> None:
        """Bytes have moved. Raises Abandoned once nobody waits for them any more."""
        if self._left:
            raise Abandoned
        with self._lock:
            self._bytes += count
        self._quiet_until = self._clock.monotonic() + self._silence_s

    def leave(self) -> None:
        """The operation's result is not wanted any more."""
        self._left = True

    def deliver(self, on_bytes: Callable[[int], None]) -> None:
        """Hand what has moved since the last call to the waiting caller, in its own thread."""
        with self._lock:
            count, self._bytes = self._bytes, 0
        if count:
            on_bytes(count)

    @property
    def silent(self) -> bool:
        """Whether nothing has moved for longer than is allowed."""
        return self._clock.monotonic() > self._quiet_until
