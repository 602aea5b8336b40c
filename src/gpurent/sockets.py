"""A socket that can be taken away from the thread that waits on it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Wire:
    """The socket below a connection, from before it exists: cutting it ends whatever waits on it, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def open(self, host: str, port: int, timeout: float) -> socket.socket:
        """Look up the name and connect, trying each address. Raises OSError."""
        made = socket.create_connection((host, port), timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small requests follow others at once
        with self._lock:
            self._socket = made
        if self._cut:
            self.cut()
        return made

    @property
    def is_cut(self) -> bool:
        """Whether it was."""
        return self._cut

    def cut(self) -> None:
        """End it. Who reads or writes meets its end at once; the thread that owns the socket closes it."""
        self._cut = True
        with self._lock, suppress(OSError):  # the other end may have been faster
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)
