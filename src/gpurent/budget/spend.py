"""What has been spent: pure arithmetic over folded rentals. Everything billed counts, from creation on."""

from __future__ import annotations

from gpurent.budget.state import Rental, RentalState, Run
from gpurent.model import Amounts
from gpurent.money import ZERO, Usd, per_hour

GB = 10**9


NOTHING = Amounts(ZERO)


def estimated(rental: Rental, now: float, *, until_end: bool = True) -> Amounts:
    """Our own estimate up to ``now`` (Unix seconds), or to the rental's end, rounded up to a micro-dollar.

    GPU and disk together are exactly ``hourly`` × time, the rate that deadlines are made from.

    Counts from the intent, not from the provider's word for creation: the later of the two would flatter.
    """
    if rental.state is RentalState.REFUSED or (rental.state is RentalState.GONE and rental.ref is None):
        return NOTHING  # the latter: searched for until it was certain that create had made nothing
    end = rental.gone_at if rental.gone_at is not None and until_end else now
    milliseconds = max(0, round((end - rental.intent_at) * 1000), rental.minimum_s * 1000)
    grain = rental.granularity_s * 1000
    milliseconds = -(-milliseconds // grain) * grain
    price = rental.offer.price
    gpu = per_hour(price.gpu_hour, milliseconds)
    hourly = max(rental.hourly, price.hourly(rental.disk_gb))
    return Amounts(
        gpu=gpu,
        disk=per_hour(hourly, milliseconds) - gpu,
        traffic_in=price.in_gb.scaled(rental.bytes_in, GB),
        traffic_out=price.out_gb.scaled(rental.bytes_out, GB),
    )


def accrued(rental: Rental, now: float) -> Usd:
    """What the rental has cost: the provider's final bill; until there is one, the larger of bill and estimate."""
    if rental.charged is not None and rental.charged.final:
        return rental.charged.total
    estimate = estimated(rental, now).total
    return estimate if rental.charged is None else max(estimate, rental.charged.total)


def run_spent(run: Run, now: float) -> Usd:
    """What all rentals of a run have cost."""
    return Usd.total([accrued(rental, now) for rental in run.rentals])
