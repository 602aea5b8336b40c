"""One command over one SSH channel, to its end or its deadline."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from gpurent.clock import Clock
from gpurent.errors import BadHostData, HostUnreachable

OPEN_S = 30.0
"""How long a machine may take to open a channel."""
LOOK_S = 0.05
"""Most seconds in which nothing but standard output is looked at."""
WINDOW_S = 0.003
"""Between two looks whether the other side takes more: longer ones would leave a long line empty meanwhile."""
BLOCK = 64 * 1024


def execute(
    transport: Any, command: str, stdin: bytes, *, timeout: float, most: int, clock: Clock
) -> tuple[int, bytes, bytes]:
    """Run ``command``, feeding ``stdin``; its status and what it wrote to both outputs.

    Args:
        transport: paramiko's, connected.
        timeout: seconds in all.
        most: bytes that each output may have.

    Raises:
        HostUnreachable: no end within ``timeout``, or the link died. A status of -1 is a command killed by a signal.
        BadHostData: more output than ``most``.
    """
    if transport is None:
        raise HostUnreachable("the connection is closed")
    until = clock.monotonic() + timeout
    with closing(transport.open_session(timeout=min(OPEN_S, timeout))) as channel:
        channel.settimeout(min(OPEN_S, timeout))
        channel.exec_command(command)
        channel.settimeout(LOOK_S)
        out, err = bytearray(), bytearray()
        left = memoryview(stdin)
        if not left:
            channel.shutdown_write()
        while True:
            if clock.monotonic() >= until:
                raise HostUnreachable(f"the command did not end within {timeout:g} s")
            if left and channel.send_ready():
                left = _sent(channel, left)
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(BLOCK)
            _check(len(err), most)
            if left and not channel.recv_ready() and not channel.eof_received:
                if not channel.send_ready():
                    channel.status_event.wait(WINDOW_S)
                continue
            try:
                block = channel.recv(BLOCK)
            except TimeoutError:
                continue
            out += block
            _check(len(out), most)
            if not block:
                return _ended(transport, channel, until, clock), bytes(out), bytes(err + _rest(channel, most))


def _sent(channel: Any, left: memoryview) -> memoryview:
    """Send a block; a command that ended without reading everything gets no more, and what it says tells why."""
    try:
        rest = left[channel.send(left[:BLOCK]) :]
        if not rest:
            channel.shutdown_write()
    except OSError:
        return left[:0]
    return rest


def _check(count: int, most: int) -> None:
    if count > most:
        size = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most} bytes"
        raise BadHostData(f"the host answered a command with more than {size}")


def _ended(transport: Any, channel: Any, until: float, clock: Clock) -> int:
    if not channel.status_event.wait(max(0.0, until - clock.monotonic())):
        raise HostUnreachable("the command ended without a status")
    status = int(channel.recv_exit_status())
    if status == -1:  # no status came: a signal killed the command, unless it was the link that died
        transport.open_session(timeout=10).close()
    return status


def _rest(channel: Any, most: int) -> bytes:
    rest = bytearray()
    while channel.recv_stderr_ready() and len(rest) <= most:
        rest += channel.recv_stderr(BLOCK)
    return bytes(rest)
