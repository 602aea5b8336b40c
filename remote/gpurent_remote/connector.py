"""How the broker reaches rentals: the SSH implementation of ``spi.Connector``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gpurent.clock import Clock, SystemClock
from gpurent.model import Endpoint, Fuse, Identity, SelfDestruct
from gpurent.spi import Connector, Host
from gpurent_remote import identity as keys
from gpurent_remote import startup
from gpurent_remote.connect import connect
from gpurent_remote.host import SshHost, Waits
from gpurent_remote.link import Link


class SshConnector:
    """Connects with paramiko and fabric; for a while a lost link is made again before it counts as dead."""

    def __init__(self, clock: Clock | None = None, waits: Waits | None = None) -> None:
        self._clock = clock or SystemClock()
        self._waits = waits or Waits()

    def new_identity(self, folder: Path) -> Identity:
        """Make the key pairs of one rental."""
        return keys.create(folder)

    def load_identity(self, folder: Path) -> Identity:
        """Read them back."""
        return keys.load(folder)

    def startup(self, identity: Identity, self_destruct: SelfDestruct | None, fuse: Fuse) -> str:
        """The start-up script."""
        return startup.script(identity, self_destruct, fuse)

    def connect(
        self,
        endpoint: Endpoint,
        identity: Identity,
        *,
        timeout: float,
        moved: Callable[[], Endpoint | None] = lambda: None,
    ) -> Host:
        """Connect with the host key pinned."""
        known: Endpoint | None = None

        def dial() -> Link:
            nonlocal known
            known = endpoint if known is None else moved() or known
            return connect(known, identity, timeout, self._clock)

        return SshHost(dial, self._clock, self._waits)


if TYPE_CHECKING:
    _: type[Connector] = SshConnector
