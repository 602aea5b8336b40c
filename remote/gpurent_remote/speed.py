"""How fast a connection is: a few megabytes there and back, in rounds that double, over one channel.

The first round carries nothing and tells the round trip, which later ones are not charged with. A round only begins if
the last rate lets it end in time: a slow line is measured with little, and a fast one with enough to leave TCP's slow
start behind. A machine that answers too early makes its line look faster than it is, and gains nothing by it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

from gpurent.clock import Clock
from gpurent.errors import BadHostData, HostUnreachable
from gpurent.model import Line
from gpurent.untrusted.text import quoted
from gpurent_remote.channel import OPEN_S

ROUNDS = tuple(2**power for power in range(14, 23))
"""Bytes of each round, 16 KiB to 4 MiB: 8 MiB in all."""
WAY_S = 2.0
"""Most seconds that rounds of one direction are planned to take."""
ENOUGH_MBPS = 200.0
"""A line that carries this is not measured any further: nothing that is sent or fetched waits for it."""
LONGEST_S = 15.0
"""For a line that stops in the middle."""
START_S = 10.0
"""For the first answer: Python starts."""
MAX_WORD = 4096

PROGRAM = """\
import os,sys
i=sys.stdin.buffer
def say(b):
    while b:
        b=b[os.write(1,b):]
for line in iter(i.readline,b''):
    what,n=line.split()
    n=int(n)
    if what==b'up':
        left=n
        while left:
            b=i.read1(min(left,1<<16))
            if not b:
                sys.exit(3)
            left-=len(b)
        say(b'%d\\n'%n)
    else:
        say(memoryview(os.urandom(n)))
"""


def measure(transport: Any, command: str, mark: str, clock: Clock) -> Line:
    """Run ``PROGRAM`` as ``command`` behind its marker, and time both ways.

    Raises:
        HostUnreachable: the line stopped, or the program did.
        BadHostData: it answers something else.
    """
    with closing(transport.open_session(timeout=OPEN_S)) as channel:
        channel.settimeout(START_S)
        channel.exec_command(command)
        return timed(channel, mark, clock)


def timed(channel: Any, mark: str, clock: Clock, within_s: float = LONGEST_S) -> Line:
    """Time both ways over a channel, or any other socket, at whose other end the program was started. Raises as
    ``measure``."""
    talk = _Talk(channel, clock, clock.monotonic() + within_s)
    talk.until(mark.encode())
    trip = min(talk.up(0) for _ in range(2))
    up, sent = _rounds(talk.up, trip)
    down, fetched = _rounds(talk.down, trip)
    return Line(up, down, sent, fetched)


def _rounds(act: Callable[[int], float], trip: float) -> tuple[float, int]:
    """The best rate of one direction in Mbit/s, and the bytes that it took."""
    best = spent = 0.0
    moved = 0
    for size in ROUNDS:
        if moved and (best >= ENOUGH_MBPS or spent + size * 8e-6 / best > WAY_S):
            break
        took = act(size)
        best = max(best, rate_mbps(size, took, trip))
        spent, moved = spent + took, moved + size
    return best, moved


def rate_mbps(size: int, took: float, trip: float) -> float:
    """What ``size`` bytes in ``took`` seconds mean, of which one round trip is not a fault of the line's width."""
    return size * 8e-6 / max(took - trip, took / 2, 1e-6)


class _Talk:
    """Orders to the program, and its answers."""

    def __init__(self, channel: Any, clock: Clock, until: float) -> None:
        self._channel, self._clock, self._until = channel, clock, until
        self._rest = b""

    def up(self, size: int) -> float:
        """Seconds until so many bytes had arrived there."""
        begun = self._clock.monotonic()
        self._send(b"up %d\n" % size + os.urandom(size))
        said = self._word()
        if said != b"%d" % size:
            raise BadHostData(f"the host counts {quoted(said.decode('utf-8', 'replace'))} of {size} bytes")
        return self._clock.monotonic() - begun

    def down(self, size: int) -> float:
        """Seconds until so many bytes had arrived here."""
        begun = self._clock.monotonic()
        self._send(b"down %d\n" % size)
        left = size - len(self._rest)
        self._rest = b""
        while left > 0:
            left -= len(self._receive())
        return self._clock.monotonic() - begun

    def until(self, mark: bytes) -> None:
        """Pass over what a login shell says first."""
        while self._word() != mark:
            pass

    def _word(self) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > MAX_WORD:
                raise BadHostData("the host answers a question about its line with something else")
            self._rest += self._receive()
        word, _, self._rest = self._rest.partition(b"\n")
        return word

    def _send(self, data: bytes) -> None:
        self._bound()
        try:
            self._channel.sendall(data)
        except TimeoutError as error:
            raise HostUnreachable("the line stopped while it was measured") from error

    def _receive(self) -> bytes:
        self._bound()
        try:
            data: bytes = self._channel.recv(1 << 16)
        except TimeoutError as error:
            raise HostUnreachable("the line stopped while it was measured") from error
        if not data:
            raise HostUnreachable("the program that measures the line ended")
        return data

    def _bound(self) -> None:
        left = self._until - self._clock.monotonic()
        if left <= 0:
            raise HostUnreachable("measuring the line took too long")
        self._channel.settimeout(min(START_S, left))
