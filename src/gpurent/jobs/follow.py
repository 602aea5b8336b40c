"""Follow a growing file of JSON lines on a host: every line once, whatever the link does."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpurent.errors import TransferFailed
from gpurent.spi import Host

MAX_LINE = 64 * 1024
MAX_TOTAL = 64 * 1024 * 1024
CHUNK = 256 * 1024


@dataclass
class LineBuffer:
    """Cut a byte stream into complete lines. ``offset`` counts bytes taken in so far, partial line included."""

    offset: int = 0
    _partial: bytes = field(default=b"", repr=False)

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes in; return the lines they complete, without line ends.

        Raises:
            TransferFailed: a line longer than 64 KiB, or more than 64 MiB in all.
        """
        self.offset += len(data)
        if self.offset > MAX_TOTAL:
            raise TransferFailed(f"the host sent more than {MAX_TOTAL >> 20} MiB of events")
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise TransferFailed(f"the host sent an event longer than {MAX_LINE >> 10} KiB")
        return [line.decode("utf-8", errors="replace") for line in lines if line.strip()]


class EventFollower:
    """Reads ``path`` on ``host`` from where it left off; the host itself reconnects."""

    def __init__(self, host: Host, path: str) -> None:
        self._host = host
        self._path = path
        self._buffer = LineBuffer()
        self._lines: list[str] = []

    def poll(self) -> list[str]:
        """Return the lines completed since the last call; raises HostUnreachable when the link stays dead."""
        while data := self._host.read(self._path, self._buffer.offset, CHUNK):
            self._lines += self._buffer.feed(data)
            if len(data) < CHUNK:
                break
        lines, self._lines = self._lines, []
        return lines
