"""How long a machine that does not answer yet is waited for: until going on costs more, by expectation, than leaving.

Some machines never answer (share ``q``); the others take at least ``low`` seconds and then, with the same chance in
every second, ``tau = mid - low`` more on average. Silent after ``t`` seconds, a machine is good with probability

    P(t) = (1 - q) S / ((1 - q) S + q),   S = exp(-(t - low) / tau)

A second more costs ``c`` and ends the wait with probability ``P(t) / tau``, which saves what leaving would cost, ``C``.
It is worth its price while ``P(t) C / tau >= c``. P only falls, so the first second that is not ends the wait.
"""

from __future__ import annotations

import math

from gpurent.model import Offer
from gpurent.money import Usd
from gpurent.plan.quote import QuoteRow
from gpurent.plan.ranges import Range
from gpurent.plan.timeline import BOOT_S, DESTROY_S

IMAGE_BYTES = 3_500_000_000
"""Of the default image, compressed: guessed from the sizes of its layers."""
SLOWER = 1.5
"""A pull takes so many times what the listed line alone would make it: registries have limits, layers are unpacked."""
CONTAINER_S = Range(10.0, 60.0, 240.0)
"""From a container that runs to SSH: the start-up script, and in some images the installation of an SSH server."""
LEAST_S, MOST_S = 180.0, 1800.0
"""Bounds of a wait. Others wait 15 (Vast.ai's own test), 20 (dstack) and 30 minutes (SkyPilot) for every machine."""
LEAST_BROKEN = 0.03
"""Share of machines that never answer, at least, however reliable their provider calls them."""


def to_ssh(offer: Offer, image_bytes: int = IMAGE_BYTES) -> Range:
    """Seconds from create to SSH on a machine that has to pull the image through its line."""
    pull = image_bytes * 8 / 1e6 / max(1.0, offer.down_mbps)
    boot = BOOT_S if offer.boot_s is None else Range.around(max(1.0, offer.boot_s), 0.5, 3.0)
    return boot + Range(pull, SLOWER * pull, 3 * pull)


def broken_share(offer: Offer) -> float:
    """How likely a machine never answers."""
    return min(0.5, max(LEAST_BROKEN, 1 - offer.reliability))


def leaving_cost(row: QuoteRow, other: QuoteRow | None) -> float:
    """Micro-dollars that it costs to end the machine of ``row`` and be as far on ``other``; infinite without one."""
    if other is None:
        return math.inf
    again = to_ssh(other.offer).mid * other.hourly.micros / 3600 + DESTROY_S.mid * row.hourly.micros / 3600
    return again + max(0, other.mid.total.micros - row.mid.total.micros)


def patience_s(takes: Range, hourly: Usd, leaving: float, broken: float) -> float:
    """Seconds after which a machine that does not answer is given up.

    Args:
        takes: seconds that a good machine takes.
        hourly: what waiting costs.
        leaving: micro-dollars, as ``leaving_cost``.
        broken: share of machines that never answer, above 0 and below 1.
    """
    tau = max(1.0, takes.mid - takes.low)
    waiting = hourly.micros / 3600 * tau
    if waiting <= 0 or math.isinf(leaving):
        return MOST_S
    enough = waiting / max(leaving, 1e-9)
    if enough >= 1:
        return LEAST_S
    odds = (1 - broken) / broken * (1 - enough) / enough
    return min(MOST_S, max(LEAST_S, takes.low + tau * math.log(max(odds, 1e-9))))
