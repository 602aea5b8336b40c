"""What a measured line means: new estimates for what crosses it, and whether its machine is given back. Pure.

The line between this computer and a machine is as fast as its slower end. A machine is only blamed for what is its own:
what it reads from the hub, without us, is; what it gets from here is, if the hub gives it no more either, or if this
computer has sent more to another machine before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpurent.model import Line, Offer, Workload
from gpurent.money import Usd
from gpurent.plan.ranges import Range
from gpurent.plan.timeline import HOST_MBPS_AT_MOST, Timeline

TRAIT = "slow_line"
MORE = 2.0
"""So many times faster another line has to be, to show that ours is not what slows this one."""
SPREAD = 0.5, 2.0
"""A measured rate was a moment's; a download has several streams, an upload is slowed by small files."""


@dataclass(frozen=True, slots=True)
class Ways:
    """Rates of one machine."""

    line: Line
    """Between here and there."""
    hub_mbps: float | None = None
    """From the hub to the machine; None: not measured."""
    home: Line | None = None
    """The best that this computer's line has lately carried with rented machines."""

    @property
    def machine_receives(self) -> bool:
        """Whether the upload is as slow as the machine makes it."""
        if self.hub_mbps is not None and self.hub_mbps >= MORE * self.line.up_mbps:
            return False
        if self.home is not None and self.home.up_mbps >= MORE * self.line.up_mbps:
            return True
        return self.hub_mbps is not None

    @property
    def machine_sends(self) -> bool:
        """Whether what comes home is as slow as the machine makes it."""
        return self.home is not None and self.home.down_mbps >= MORE * self.line.down_mbps


def forecast(planned: Timeline, workload: Workload, ways: Ways, *, blamed_only: bool = False) -> Timeline:
    """A job's timeline with what was measured in place of what was offered; ``blamed_only``: where it is the machine's
    doing."""
    changed = {}
    if workload.upload_bytes and (ways.machine_receives or not blamed_only):
        changed["upload_s"] = _takes(workload.upload_bytes, ways.line.up_mbps)
    if workload.base_download_bytes and ways.hub_mbps is not None:
        changed["base_model_s"] = _takes(workload.base_download_bytes, ways.hub_mbps)
    if workload.checkpoint_bytes and (ways.machine_sends or not blamed_only):
        changed["collect_s"] = _takes(workload.checkpoint_bytes, min(HOST_MBPS_AT_MOST, ways.line.down_mbps))
    return replace(planned, **changed)


def _takes(size: int, mbps: float) -> Range:
    return Range.around(size * 8e-6 / max(mbps, 1e-3), *SPREAD)


def too_slow(jobs: Sequence[tuple[Timeline, Workload]], ways: Ways, hourly: Usd, leaving: float) -> str:
    """Why the machine is given back for its line; empty where staying is expected to cost less.

    Args:
        jobs: what is to be trained, with timelines by the machine's offer.
        ways: as measured.
        hourly: what a wait costs.
        leaving: micro-dollars that it costs to be as far on the next machine; infinite without one.
    """
    before = [_moving(job) for job, _ in jobs]
    now = [_moving(forecast(job, load, ways, blamed_only=True)) for job, load in jobs]
    lost_s = sum(span.mid for span in now) - sum(span.mid for span in before)
    if sum(span.mid for span in now) <= sum(span.high for span in before) or lost_s * hourly.micros / 3600 <= leaving:
        return ""
    return f"uploads, downloads and results would take about {lost_s:.0f} s longer than its offer promises"


def _moving(job: Timeline) -> Range:
    """Seconds that a job waits for its line."""
    return job.base_model_s.beside(job.upload_s) + job.collect_s


def too_late(job: Timeline, left_s: float) -> str:
    """Why the job cannot begin before it has to end; empty where it can."""
    needed_s = job.base_model_s.beside(job.upload_s).low
    if needed_s <= left_s:
        return ""
    left = f"the budget leaves {max(0.0, left_s):.0f} s until training has to end"
    return f"the job's files would take at least {needed_s:.0f} s, and {left}"


def told(ways: Ways, offer: Offer) -> str:
    """What was measured, beside the offer."""
    hub = "" if ways.hub_mbps is None else f", {_rate(ways.hub_mbps)} from the hub"
    measured = f"{_rate(ways.line.up_mbps)} to the machine, {_rate(ways.line.down_mbps)} back{hub}"
    return f"{measured} Mbit/s (offered: {_rate(offer.down_mbps)} and {_rate(offer.up_mbps)})"


def _rate(mbps: float) -> str:
    return f"{mbps:.0f}" if mbps >= 10 else f"{mbps:.1f}"
