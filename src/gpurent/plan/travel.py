"""How often the state of a training comes home while it is under way: what it costs, against what a lost machine costs.

A machine that is lost takes with it all steps since the last state that came home. With interruptions at rate ``lam``,
``c`` the price of a second of the machine and ``C`` the price of one transfer, a state every ``T`` seconds costs
``C / T + lam c T / 2`` a second, which is least at ``T = sqrt(2 C / (lam c))`` (J. W. Young, A first order
approximation to the optimum checkpoint interval, CACM 17, 1974). Training goes on during a transfer, so that only
traffic has a price.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpurent.model import Offer, Workload
from gpurent.money import ZERO, Usd
from gpurent.plan.cost import GB
from gpurent.plan.timeline import HOST_MBPS_AT_MOST, Timeline

STATE_PER_LORA = 6
"""A state is about so many times as large as its LoRA in 16 bits: weights and two moments of AdamW in 32 bits."""
LINE_SHARE = 10
"""The line is busy with states for at most one part in so many: results and events come over it as well."""
EVERY_S = 30.0
"""And no state comes within so many seconds after another."""
HOURS_TO_OUTBID = 8.0
"""Mean hours until an interruptible machine is taken away. A guess: services publish none, and it changes daily."""
RELIABLE_HOURS = 24.0
"""A machine of reliability ``p`` is lost at a rate of ``(1 - p)`` in so many hours. A guess: services do not say over
which time they count."""


MOST_WASTED = 0.9
"""An expectation is bounded: of a machine that is always taken away before its training begins it would be infinite."""


def outbid_per_hour(offer: Offer) -> float:
    """How often somebody takes a machine of this offer away in an hour, on average."""
    return 1 / HOURS_TO_OUTBID if offer.interruptible else 0.0


def lost_per_hour(offer: Offer) -> float:
    """How often a machine of this offer is lost in an hour of training, for whatever reason, on average."""
    return (1 - min(1.0, max(0.5, offer.reliability))) / RELIABLE_HOURS + outbid_per_hour(offer)


def outbid_s(offer: Offer, timeline: Timeline, every_s: float) -> float:
    """Expected seconds of rental that outbids add.

    Each makes another machine boot and get ready again, and takes the steps since the last state along: ``r`` seconds
    in all. They are exposed to the next one, so that ``T`` seconds become ``T / (1 - rate r)``.

    Args:
        offer: an interruptible one; any other adds nothing.
        timeline: of the whole rental.
        every_s: seconds between two states that come home.
    """
    redone_s = timeline.before_training_s.mid + timeline.destroy_s.mid + min(every_s, timeline.train_s.mid) / 2
    wasted = min(MOST_WASTED, outbid_per_hour(offer) / 3600 * redone_s)
    return timeline.total_s.mid * wasted / (1 - wasted)


@dataclass(frozen=True, slots=True)
class Travel:
    """What decides how often states of one training come home."""

    size: int
    """Bytes of a state."""
    mbps: float
    """Of the line home."""
    hourly: Usd
    """GPU and disk."""
    out_gb: Usd
    """Price of a GB that leaves the machine."""
    lost_per_hour: float
    least_s: float = EVERY_S

    @property
    def takes_s(self) -> float:
        """Seconds of one transfer."""
        return self.size * 8 / 1e6 / max(0.1, self.mbps)

    @property
    def price(self) -> Usd:
        """Of one transfer."""
        return self.out_gb.scaled(self.size, GB)

    @property
    def every_s(self) -> float:
        """Seconds between two states that come home; infinite where none is worth its price."""
        floor = max(self.least_s, LINE_SHARE * self.takes_s)
        if self.price <= ZERO:
            return floor
        risk = self.lost_per_hour / 3600 * self.hourly.micros / 3600  # micro-dollars per second, and second
        return max(floor, math.sqrt(2 * self.price.micros / risk)) if risk > 0 else math.inf

    def worth(self, since_s: float, left_s: float) -> bool:
        """Whether a state is fetched now.

        Args:
            since_s: seconds of training that would be lost with the machine.
            left_s: seconds of training that are left.
        """
        if since_s < self.every_s or left_s <= self.takes_s:
            return False
        chance = self.lost_per_hour / 3600 * min(left_s, self.every_s)
        return chance * since_s * self.hourly.micros / 3600 >= self.price.micros

    def count(self, seconds: float) -> int:
        """How many states come home during a training of so many seconds."""
        every = self.every_s
        return 0 if math.isinf(every) else max(0, math.ceil(seconds / every) - 1)


def planned(workload: Workload, offer: Offer, hourly: Usd) -> Travel:
    """What is expected of the states of a workload on an offer."""
    size = STATE_PER_LORA * workload.checkpoint_bytes // max(1, workload.checkpoints)
    return for_offer(offer, hourly, size=size)


def for_offer(offer: Offer, hourly: Usd, *, size: int = 0, least_s: float = EVERY_S) -> Travel:
    """The same where the size is known, or will be."""
    mbps = max(1.0, min(offer.up_mbps, HOST_MBPS_AT_MOST))
    return Travel(
        size=size,
        mbps=mbps,
        hourly=hourly,
        out_gb=offer.price.out_gb,
        lost_per_hour=lost_per_hour(offer),
        least_s=least_s,
    )
