"""Measures the line of a machine that was just rented, and keeps what this computer's own has carried."""

from __future__ import annotations

from pathlib import Path

from gpurent.clock import Clock
from gpurent.jobs import homeline
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.plan.line import Ways
from gpurent.spi import Host


def measure(
    host: Host, hub_mbps: float | None, home: Path | None, clock: Clock, *, tell: Tell
) -> Ways:  # fmt: skip
    """What a machine's line carries.

    Args:
        host: connected.
        hub_mbps: what it read from the hub with.
        home: where this computer's own line is remembered; None: the machine says nothing about that.

    Raises:
        HostUnreachable: the line stopped.
    """
    line = host.line()
    known = None if home is None else homeline.recall(home, clock.now())
    if home is not None:
        try:
            homeline.remember(home, clock.now(), line)
        except OSError as error:
            tell(Notice(f"What this computer's line carries could not be kept: {error}"))
    return Ways(line, hub_mbps, known)
