"""What befalls an instance by itself as time passes. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpurent.money import Usd
from gpurent_sandbox.held import OUTBID, Held


def befalling(held: Held, now: float) -> dict[str, object]:
    """The next thing that has fallen due by ``now``, as changes to an instance that has not ended."""
    vanish_at, expiry = held.troubles.vanish_at, held.expires_at
    if vanish_at is not None and vanish_at <= now:
        return {"ended_at": vanish_at, "gone": True}
    if held.destroy_at is not None and held.destroy_at <= now:
        return {"ended_at": held.destroy_at}
    if held.active and not held.idle_s and held.outbid_at is not None and held.outbid_at <= now:
        return {"stopped_at": held.outbid_at, "message": OUTBID}
    if held.active and not held.idle_s and held.stops_at is not None and held.stops_at <= now:
        return {"stopped_at": held.stops_at, "message": "stopped by the host"}
    if held.stopped_at is not None and held.back_at is not None and held.back_at <= now:
        # Its host boots again, and the GPU was not billed meanwhile.
        return {"stopped_at": None, "idle_s": held.back_at - held.stopped_at, "port": None, "message": ""}
    if held.stopped_at is None and expiry <= now:
        return {"stopped_at": expiry, "message": "stopped: the longest rental of this machine is over"}
    return {}


def lasts(left: Usd, open_: Sequence[Held]) -> float:
    """Seconds for which a balance pays for certain: nobody looks more often, unless something changes."""
    hourly = Usd.total([held.priced(math.inf).hourly(held.order.disk_gb) + held.foreign_hourly for held in open_])
    begun = max(held.machine.unit_s + held.machine.minimum_s for held in open_) + 1
    roundings = 4 * len(open_)
    return max(0.0, (left.micros - roundings) * 3600 / max(1, hourly.micros) - begun)
