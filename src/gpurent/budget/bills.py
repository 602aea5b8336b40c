"""When a provider's bill is its last word. Pure.

Services book late: Vast.ai by hours, RunPod by the hour and later still. A bill that is read too soon is a part of one,
so it is final only when it reaches the end of the rental. Until then the larger of bill and estimate counts.
"""

from __future__ import annotations

from dataclasses import replace

from gpurent.budget.spend import estimated
from gpurent.budget.state import Rental
from gpurent.model import Charges
from gpurent.money import ZERO, Usd

REACH_S = 600.0
"""How far before its rental's end a complete bill may end: a machine ends a while before its end is confirmed."""
SHORT_PERCENT = 2
SHORT_AT_MOST = Usd(5_000)
"""A bill that is this much below the estimate is complete: services round to a tenth of a cent a line. One that was
rounded to nothing, or to less than half the estimate, is none yet."""
QUIET_S = 24 * 3600.0
"""A lower bill that reaches the last sign of life is believed after so long without a change: some of the time may be
free, and a machine that nobody looked after may have ended long before that was confirmed."""
SILENT_S = 7 * 24 * 3600.0
"""So is one that does not even reach that far: nothing more is going to be booked."""


def judged(rental: Rental, charges: Charges, now: float) -> Charges:
    """``charges`` of a rental, final or not.

    Args:
        rental: as the ledger has it, with the bill that was told before.
        charges: what its provider says at ``now`` (Unix seconds).
    """
    end = rental.gone_at
    final = end is not None and (
        charges.final or _complete(rental, charges, end) or _unchanged_for(rental, charges, end, now)
    )
    return replace(charges, final=final)


def _complete(rental: Rental, charges: Charges, end: float) -> bool:
    """Whether the end is known to a few minutes, and everything up to there is booked."""
    least = estimated(rental, rental.alive_at, until_end=False).total
    short = max(least.scaled(SHORT_PERCENT, 100), min(SHORT_AT_MOST, least.scaled(1, 2)))
    observed = end - rental.alive_at <= REACH_S
    return observed and _reaches(charges, end) and charges.total > ZERO and charges.total + short >= least


def _unchanged_for(rental: Rental, charges: Charges, end: float, now: float) -> bool:
    """Whether the bill has said the same for so long that it is the provider's last word, however low."""
    if rental.charged is None or rental.charged_at is None or rental.charged.total != charges.total:
        return False
    wait_s = QUIET_S if _reaches(charges, rental.alive_at) else SILENT_S
    return now >= max(rental.charged_at, end) + wait_s


def _reaches(charges: Charges, moment: float) -> bool:
    return charges.until is not None and charges.until + REACH_S >= moment
