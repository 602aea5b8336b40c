"""Follow a growing file of JSON lines on a host: every line once, whatever the link does."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpurent.errors import BadHostData
from gpurent.jobs.events import MAX_LINE
from gpurent.spi import Host

CHUNK = 256 * 1024


@dataclass
class LineBuffer:
    """Cut a byte stream into complete lines. ``offset`` counts bytes taken in so far, partial line included."""

    most: int
    """Bytes in all."""
    offset: int = 0
    _partial: bytes = field(default=b"", repr=False)

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes in; return the lines they complete, without line ends.

        Raises:
            BadHostData: a line longer than 64 KiB or not in UTF-8, or more than ``most`` bytes in all.
        """
        self.offset += len(data)
        if self.offset > self.most:
            raise BadHostData(f"the host sent more than the {self.most} bytes of events that this training can have")
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise BadHostData(f"the host sent an event longer than {MAX_LINE >> 10} KiB")
        try:
            return [line.decode("utf-8") for line in lines if line.strip()]
        except UnicodeDecodeError as error:
            raise BadHostData("the host sent an event that is not UTF-8") from error


class EventFollower:
    """Reads ``path`` on ``host`` from where it left off; the host itself reconnects.

    ``behind``: there is more to read at once. One look is bounded, so that the caller can do other things in between.
    """

    def __init__(self, host: Host, path: str, most: int) -> None:
        self._host = host
        self._path = path
        self._buffer = LineBuffer(most)
        self.behind = False

    def poll(self) -> list[str]:
        """Return lines completed since the last call; raises HostUnreachable when the link stays dead, BadHostData."""
        data = self._host.read(self._path, self._buffer.offset, CHUNK)
        if len(data) > CHUNK:
            raise BadHostData(f"the host sent {len(data)} bytes where {CHUNK} were asked for")
        self.behind = len(data) == CHUNK
        return self._buffer.feed(data)
