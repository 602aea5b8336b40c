"""paramiko with bounds: what the server sends beyond SSH's own limits ends the connection and fills no memory.

paramiko believes the lengths in packets and keeps whatever a server sends into a channel beyond its window
(RFC 4253 §6.1: packets of 35,000 bytes; RFC 4254 §5.2: no more than the window).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paramiko
from paramiko.packet import Packetizer

MAX_PACKET = 256 * 1024
"""Bytes of one packet of SSH or SFTP; paramiko announces 32 KiB."""
MAX_UNREAD = 4 * 1024 * 1024
"""Bytes that a channel holds; paramiko's window is 2 MiB."""
MAX_LOGIN = 1024 * 1024
"""Bytes before the login is done: banner, key exchange, authentication."""


class _Metered:
    """A socket that does not take an endless banner."""

    def __init__(self, link: Any) -> None:
        self._link = link
        self._left = MAX_LOGIN
        self.trusted: Callable[[], bool] = lambda: False

    def recv(self, count: int) -> bytes:
        data: bytes = self._link.recv(count)
        if self._left is not None and not self.trusted():
            self._left -= len(data)
            if self._left < 0:
                raise paramiko.SSHException(f"more than {MAX_LOGIN >> 20} MiB before the login was done")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class _Packetizer(Packetizer):
    def __init__(self, link: Any) -> None:
        self.metered = _Metered(link)
        bounded: Any = self.metered  # it has a socket's methods, and is none
        super().__init__(bounded)

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if n > MAX_PACKET:
            raise paramiko.SSHException(f"a packet of {n} bytes")
        data: bytes = super().read_all(n, check_rekey)
        return data


class BoundedTransport(paramiko.Transport):
    """A transport that ends when its server sends more than it may."""

    def __init__(self, link: Any, **given: Any) -> None:
        super().__init__(link, **{**given, "packetizer_class": _Packetizer})
        if isinstance(self.packetizer, _Packetizer):
            self.packetizer.metered.trusted = self.is_authenticated
        wanted: Any = self.get_security_options()
        wanted.ciphers = sorted(wanted.ciphers, key=lambda name: "gcm" not in name)  # half the work of CTR and HMAC

    def open_channel(self, *arguments: Any, **options: Any) -> paramiko.Channel:
        """As paramiko's; what nobody reads is bounded."""
        channel = super().open_channel(*arguments, **options)
        for pipe in (channel.in_buffer, channel.in_stderr_buffer):
            _bound(pipe)
        return channel


def _bound(pipe: Any) -> None:
    feed = pipe.feed

    def bounded(data: Any) -> None:
        if len(pipe) + len(data) > MAX_UNREAD:
            raise paramiko.SSHException(f"more than {MAX_UNREAD >> 20} MiB that nobody had asked for")
        feed(data)

    pipe.feed = bounded


class BoundedSftp(paramiko.SFTPClient):
    """SFTP whose packets are as long as the largest answer to what is asked."""

    def _read_all(self, n: int) -> bytes:
        if n > MAX_PACKET:
            raise paramiko.SFTPError(f"a packet of {n} bytes")
        data: bytes = super()._read_all(n)  # type: ignore[misc]
        return data
