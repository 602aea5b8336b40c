"""The files of the next job, sent while the current one trains: a few at a time, between two looks at the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gpurent.dataset.content import Parcel
from gpurent.errors import HostError, HostUnreachable, SourceChanged
from gpurent.jobs.premises import Premises
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.spi import Host, LocalFile

BITE = 4_000_000
"""Bytes that are sent at once: a look at the engine waits for them, 1.6 s on a line of 20 Mbit/s."""
LARGEST = 8 * BITE
"""A parcel with a larger file, as a base model is, waits for its turn."""


class Ahead:
    """What of a parcel is still to be sent."""

    def __init__(self, parcel: Parcel, premises: Premises, tell: Tell) -> None:
        self._parcel, self._premises, self._tell = parcel, premises, tell
        known = parcel.folder in premises.sent or any(file.size > LARGEST for file in parcel.files)
        self._left: deque[LocalFile] = deque(() if known else parcel.files)

    def send(self, host: Host, mind: Callable[[], None]) -> None:
        """Send the next few files, ``mind`` called meanwhile. What goes wrong is left to the job's own turn.

        Raises:
            HostUnreachable, Halt.
        """
        if not self._left:
            return
        bite = self._bite()

        def moved(count: int) -> None:
            self._premises.traffic.bytes_in += count
            mind()

        try:
            host.put(bite, self._parcel.folder, moved)
        except HostUnreachable:
            raise
        except (HostError, SourceChanged) as error:
            self._left.clear()
            self._tell(Notice(f"The next job's files are sent when it is its turn: {error}"))
            return
        for _ in bite:
            self._left.popleft()
        if not self._left:
            self._premises.sent.add(self._parcel.folder)

    def _bite(self) -> list[LocalFile]:
        """From the first file on, as many as go at once."""
        found: list[LocalFile] = []
        size = 0
        for file in self._left:
            size += file.size
            if found and size > BITE:
                break
            found.append(file)
        return found
