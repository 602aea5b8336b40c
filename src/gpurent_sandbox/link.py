"""The wire between the world and one host: counts and bills bytes, slows down, and breaks to order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncssh

from gpurent_sandbox.faults import Fault, Faults


class _Silent:
    """A transport that keeps what is written for later. In all else it is the real one."""

    def __init__(self, real: asyncio.Transport) -> None:
        self.real = real
        self.kept: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.kept.append(bytes(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Link:
    """All SSH connections of one host; ``rate`` is what its network does at most, in bytes a second."""

    def __init__(self, faults: Faults, bill: Callable[[int, int], None], rate: float | None = None) -> None:
        self._rate = rate
        self._faults = faults
        self._bill = bill
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._passed = 0
        self._break_at: int | None = None
        self._free_at = 0.0

    def opened(self, connection: asyncssh.SSHServerConnection) -> None:
        """A connection was accepted."""
        self._connections.add(connection)
        if self._faults.armed(Fault.LINK_FROZEN) is not None:
            _freeze(connection)

    def closed(self, connection: asyncssh.SSHServerConnection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    @property
    def in_use(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._connections)

    def cut(self) -> None:
        """Break every connection without a good-bye."""
        for connection in list(self._connections):
            connection.abort()
        self._connections.clear()

    async def carry(self, *, in_bytes: int = 0, out_bytes: int = 0) -> None:
        """Account for bytes on the wire; take as long as a slow link would, or break."""
        count = in_bytes + out_bytes
        self._bill(in_bytes, out_bytes)
        self._passed += count
        self._strike()
        slow = self._faults.armed(Fault.SLOW_LINK)
        rate = slow.amount if slow is not None and slow.amount > 0 else self._rate
        if rate is not None:
            now = asyncio.get_running_loop().time()
            self._free_at = max(now, self._free_at) + count / rate
            await asyncio.sleep(self._free_at - now)

    def _strike(self) -> None:
        self.break_now()  # while it is ordered again and again, no byte passes between two looks of the market
        if self._break_at is not None and self._passed >= self._break_at:
            self._break_at = None
            self.cut()
        rule = self._faults.armed(Fault.DROP_SSH)
        if rule is not None and rule.amount > 0 and self._faults.take(Fault.DROP_SSH):
            self._break_at = self._passed + int(rule.amount)

    def freeze_or_thaw(self) -> None:
        """Let ``link_frozen`` begin or end."""
        frozen = self._faults.armed(Fault.LINK_FROZEN) is not None
        for connection in self._connections:
            _freeze(connection) if frozen else _thaw(connection)

    def break_now(self) -> None:
        """Let a ``drop_ssh`` without a byte count strike, if anybody is there to notice."""
        rule = self._faults.armed(Fault.DROP_SSH)
        if rule is not None and rule.amount == 0 and self.in_use and self._faults.take(Fault.DROP_SSH):
            self.cut()


def _freeze(connection: asyncssh.SSHServerConnection) -> None:
    """Read nothing more from it and write nothing more to it: the kernel goes on acknowledging."""
    transport: Any = connection._transport  # noqa: SLF001  # asyncssh has no public way to hold still
    if transport is not None and not isinstance(transport, _Silent):
        transport.pause_reading()
        connection._transport = _Silent(transport)  # type: ignore[assignment]  # noqa: SLF001


def _thaw(connection: asyncssh.SSHServerConnection) -> None:
    """What was kept goes out, what has come is read."""
    transport: Any = connection._transport  # noqa: SLF001
    if isinstance(transport, _Silent):
        connection._transport = transport.real  # noqa: SLF001
        if not transport.real.is_closing():
            transport.real.write(b"".join(transport.kept))
            transport.real.resume_reading()
