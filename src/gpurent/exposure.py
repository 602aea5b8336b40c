"""What traffic that this computer did not cause may cost, and how often to look for it. Pure.

A machine can send and receive as fast as its line, whatever causes it, and some hosts sell traffic by the gigabyte. The
worst case is bandwidth × price. Nobody can prevent it, but it is bounded: the service's own counters are read so often
that what a full line costs between two looks, and until the machine is gone, is a reserve of cents.
"""

from __future__ import annotations

import math

from gpurent.model import Offer
from gpurent.money import ZERO, Usd, per_hour

GB = 10**9
LOOK_FOR = Usd(10_000)
"""A full line may cost so much between two looks: a cent."""
LOOK_SOONEST_S, LOOK_LATEST_S = 10.0, 60.0
"""Services limit how often they are asked; Vast.ai documents 2 s for one instance."""
LEAD_S = 5.0
"""So long an enforcer leaves a look to the process that conducts the rental, which may hang."""
REACT_S = 20.0
"""From the moment at which a look is due to the end of the machine, where the service answers: an enforcer may look
``LEAD_S`` and one of its rounds later, and gives the process that conducts the rental a few seconds to end it first."""
ONE_IN = 50
"""So many rentals are believed to be right about their traffic for one whose line is full until it ends. A judgement:
nobody publishes how often a host misbehaves."""


def worst_hourly(offer: Offer) -> Usd:
    """What an hour of traffic at full line in both directions costs, by the listed bandwidth."""
    return offer.price.in_gb.scaled(_bytes_an_hour(offer.down_mbps), GB) + offer.price.out_gb.scaled(
        _bytes_an_hour(offer.up_mbps), GB
    )


def _bytes_an_hour(mbps: float) -> int:
    return math.ceil(mbps * 1e6 / 8 * 3600)


def look_every_s(offer: Offer) -> float:
    """Seconds between two looks at what the service has counted."""
    worst = worst_hourly(offer)
    if worst <= ZERO:
        return LOOK_LATEST_S  # the price per hour is compared
    return min(LOOK_LATEST_S, max(LOOK_SOONEST_S, LOOK_FOR.micros * 3600 / worst.micros))


def surge_reserve(offer: Offer) -> Usd:
    """What a full line costs from one look to the next and from there to the end of the machine: kept back for it."""
    worst = worst_hourly(offer)
    return per_hour(worst, math.ceil((look_every_s(offer) + REACT_S) * 1000)) if worst > ZERO else ZERO


def exposure(offer: Offer, seconds: float) -> Usd:
    """What a full line costs for as long as the rental is to last, if nobody looks: this computer and its watchdog are
    gone, and the machine's own switch ends it."""
    return per_hour(worst_hourly(offer), math.ceil(seconds * 1000))


def risk(offer: Offer, seconds: float) -> Usd:
    """What the exposure adds to the cost that is to be expected."""
    return exposure(offer, seconds).scaled(1, ONE_IN)
