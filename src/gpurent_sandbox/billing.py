"""What an instance costs: pure arithmetic over seconds and bytes, whole seconds and micro-dollars rounded up."""

from __future__ import annotations

from dataclasses import dataclass

from gpurent.model import Charges, Price
from gpurent.money import MONTH_S, per_hour

GB = 10**9


@dataclass(frozen=True, slots=True)
class Usage:
    """What one instance used: seconds in which GPU and disk were held, bytes into and out of the host."""

    gpu_s: int
    disk_s: int
    in_bytes: int = 0
    out_bytes: int = 0


def whole_seconds(start: float, end: float, unit_s: int = 1, minimum_s: int = 0) -> int:
    """Seconds billed from ``start`` to ``end``: whole units, the begun one included, and at least ``minimum_s``."""
    milliseconds = round((end - start) * 1000)
    return max(minimum_s, 0, -(-milliseconds // (unit_s * 1000)) * unit_s)


def bill(price: Price, disk_gb: int, usage: Usage, *, final: bool) -> Charges:
    """Charges for ``usage`` at ``price``; each part is rounded up by itself and never shrinks as usage grows."""
    return Charges(
        gpu=per_hour(price.gpu_hour, usage.gpu_s * 1000),
        disk=(price.disk_gb_month * disk_gb).scaled(usage.disk_s, MONTH_S),
        traffic_in=price.in_gb.scaled(usage.in_bytes, GB),
        traffic_out=price.out_gb.scaled(usage.out_bytes, GB),
        final=final,
    )
