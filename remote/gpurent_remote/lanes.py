"""One upload over several channels of one connection: lanes, each with a receiver at its other end.

A channel carries no more than its window in one round trip (OpenSSH: 2 MiB, so 40 MB/s over 50 ms), and SFTP has every
32 KiB answered beside. Lanes share the work piece by piece. A slow line gets only one: what a cut leaves unfinished is
sent again, and several unfinished pieces are more than one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import paramiko

from gpurent.clock import Clock
from gpurent.errors import BadHostData, CommandFailed, SourceChanged, TransferFailed
from gpurent.sending import AT_ONCE, open_checked
from gpurent.spi import LocalFile
from gpurent.untrusted.text import quoted
from gpurent_remote.channel import OPEN_S
from gpurent_remote.receiver import MAX_LINE, UNWRITTEN, Heard, order

LANES = 4
LANE_RATE = 1_000_000
"""Bytes a second for which a line gets another lane."""
WORTH = 4 * 1024 * 1024
"""Bytes to send that may be worth more than one lane."""
BLOCK = 512 * 1024
"""Bytes of a piece of a large file."""
SMALL = AT_ONCE
"""Files of up to so many bytes are one piece each, verified as they are written."""
PAUSE_S = 0.001, 0.016
"""Between two looks at lanes that are all full: shortest and longest."""
PACKET = 32 * 1024
MAX_ERRORS = 4000


class StreamBroken(Exception):
    """The receiver ended before its time, though the connection lives: another way is to be tried."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file that travel together."""

    file: LocalFile
    path: str
    """On the host."""
    start: int
    length: int

    def packed(self) -> bytes:
        """The order, and the bytes. Raises SourceChanged."""
        with open_checked(self.file) as source:
            source.seek(self.start)
            data = source.read(self.length)
        if len(data) < self.length:
            raise SourceChanged(f"{self.file.source} became shorter while it was sent")
        digest = self.file.sha256 if self.file.size <= SMALL else ""
        return order("take", self.path, self.start, self.length, self.file.size, digest) + data


def lanes_for(rate: float) -> int:
    """How many lanes a line of ``rate`` bytes a second is worth."""
    return max(1, min(LANES, 1 + int(rate / LANE_RATE)))


class Lane:
    """One channel with a receiver at its other end."""

    def __init__(self, transport: paramiko.Transport, command: str, mark: str) -> None:
        self._transport = transport
        self._channel: Any = transport.open_session(timeout=OPEN_S)
        self._channel.settimeout(OPEN_S)
        self._channel.exec_command(command)
        self.heard = Heard(mark.encode())
        self._left = memoryview(b"")
        self._names: list[str] = []
        """What each order is about."""
        self._sent = 0
        """Bytes of files that were handed to it."""
        self._errors = bytearray()
        self._closing = False
        self.over = False

    @property
    def empty(self) -> bool:
        """Whether it takes another order."""
        return not self._left and not self._closing

    def load(self, data: bytes, name: str, length: int = 0) -> None:
        """Give it an order and the bytes that follow, of which so many are a file's."""
        self._left = memoryview(data)
        self._names.append(name)
        self._sent += length

    def finish(self) -> None:
        """No order follows."""
        if not self._closing:
            self._closing = True
            self._channel.shutdown_write()

    def step(self) -> bool:
        """Send and hear what is possible at once; whether anything was.

        Raises:
            TransferFailed: a file arrived damaged.
            CommandFailed: the host could not write it.
            BadHostData: it says what cannot be.
            StreamBroken: it ended before its time.
            OSError, paramiko.SSHException: the link is dead.
        """
        moved = bool(self._left) and self._channel.send_ready()
        if moved:
            self._left = self._left[self._send() :]
        while self._channel.recv_stderr_ready():
            self._errors += self._channel.recv_stderr(PACKET)
            del self._errors[:-MAX_ERRORS]
        if self._channel.recv_ready():
            self._hear(self._channel.recv(PACKET))
            return True
        if self._channel.closed or (self._channel.eof_received and self._channel.exit_status_ready()):
            self._close()
        return moved or self.over

    def _send(self) -> int:
        try:
            return int(self._channel.send(self._left[:PACKET]))
        except OSError:
            if self._channel.closed or self._channel.eof_received:
                return len(self._left)  # it has ended, and says why
            raise

    def _hear(self, data: bytes) -> None:
        self.heard.feed(data)
        if self.heard.done > self._sent:
            raise BadHostData("the host says that it has more of our files than was sent")
        if self.heard.bad is not None:
            if self.heard.bad >= len(self._names):
                raise BadHostData("the host speaks of a file that was not sent")
            raise TransferFailed(f"{self._names[self.heard.bad]} arrived damaged on the host")

    def _close(self) -> None:
        status = self._channel.recv_exit_status()
        said = self._errors.decode("utf-8", "replace")
        if status == UNWRITTEN:
            why = f"the host could not write a file; it says {quoted(said, end=True)}"
            raise CommandFailed(why, status=status, stderr=said)
        if status == -1:  # a signal ended it, unless it was the link that died
            self._transport.open_session(timeout=OPEN_S).close()
        if status != 0 or not self._closing or not self.heard.ended or self.heard.done != self._sent:
            raise StreamBroken(f"the receiver ended with status {status}: {quoted(said, end=True)}")
        self.over = True

    def wait(self, seconds: float) -> None:
        """Rest until it ends, or for so long."""
        self._channel.status_event.wait(seconds)

    def close(self) -> None:
        """Give the channel up."""
        self._channel.close()


class Lanes:
    """The lanes of one upload. The first has to open; of the others, as many as the server lets.

    Args:
        start: opens a lane.
        moved: told of bytes that the host has written, and of its signs of life (0).
    """

    def __init__(self, start: Callable[[], Lane], moved: Callable[[int], None], clock: Clock) -> None:
        self._start, self._moved, self._clock = start, moved, clock
        self._lock = threading.Lock()
        self._over = False
        self._told = self._signs = 0
        self._pause = PAUSE_S[0]
        self._lanes = [start()]

    def ask(self, data: bytes, name: str, most: int) -> bytes:
        """Have the first lane's receiver answer, in a line of at most so many bytes."""
        first = self._lanes[0]
        first.heard.most = most
        first.load(data, name)
        while first.heard.found is None:
            self._turn([first])
        first.heard.most = MAX_LINE
        return first.heard.found

    def send(self, pieces: Iterable[Piece]) -> None:
        """Have every piece written by the host, and end all receivers but the first.

        Raises:
            as ``Lane.step``; SourceChanged.
        """
        left, first, since = deque(pieces), self._lanes[0], self._clock.monotonic()
        for _ in range(1, LANES if sum(piece.length for piece in left) > WORTH else 1):
            self._clock.begin(self._another)
        while True:
            rate = self._told / max(self._clock.monotonic() - since, PAUSE_S[0])
            for lane in [lane for lane in self._lanes[: lanes_for(rate)] if lane.empty]:
                if left:
                    piece = left.popleft()
                    lane.load(piece.packed(), str(piece.file.source), piece.length)
            if not left:
                for lane in [lane for lane in self._lanes[1:] if lane.empty]:
                    lane.finish()
                if first.empty and all(lane.over for lane in self._lanes[1:]):
                    return
            self._turn(list(self._lanes))

    def settle(self, files: Iterable[tuple[str, LocalFile]]) -> None:
        """Have files that came in blocks verified, and end the first receiver. Raises as ``Lane.step``."""
        first = self._lanes[0]
        for path, file in files:
            while not first.empty:
                self._turn([first])
            first.load(order("settle", path, file.size, file.sha256), str(file.source))
        while not first.over:
            if first.empty:
                first.finish()
            self._turn([first])

    def _turn(self, lanes: list[Lane]) -> None:
        """One step of every lane, and a rest where none moved."""
        working = [lane for lane in lanes if not lane.over]
        busy = [lane for lane in working if lane.step()]
        done, signs = (sum(getattr(lane.heard, what) for lane in self._lanes) for what in ("done", "lines"))
        if signs > self._signs:
            self._moved(done - self._told)
            self._told, self._signs = done, signs
        self._pause = PAUSE_S[0] if busy else min(PAUSE_S[1], 2 * self._pause)
        if working and not busy:
            working[0].wait(self._pause)

    def _another(self) -> None:
        """Beside the work: what is open goes on, and finds out by itself if the link is dead."""
        with suppress(paramiko.SSHException, EOFError, OSError):
            lane = self._start()
            with self._lock:
                self._lanes.append(lane)
                wanted = not self._over
            if not wanted:
                lane.close()

    def close(self) -> None:
        """Give up all channels, also those that are being opened."""
        with self._lock:
            self._over = True
        for lane in list(self._lanes):
            lane.close()
