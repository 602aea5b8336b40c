"""How long a budget lasts: pure arithmetic, rounded against us."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpurent.budget.errors import BudgetError
from gpurent.budget.spend import run_spent
from gpurent.budget.state import Rental, Run
from gpurent.exposure import surge_reserve
from gpurent.money import ZERO, Usd, affordable_ms, per_hour

PRICE_TOLERANCE_PERCENT = 2
"""An instance dearer than its offer by more than this is given back at once."""
TEARDOWN_S = 300.0
"""What the reserve allows from the order to destroy to the end of billing: for a service that is slow or deaf."""
FREE_MACHINE_HOURS = 24 * 7
"""A machine that costs nothing is still ended some day."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Unix seconds: at ``soft`` training stops and results come home, at ``hard`` the machine is destroyed."""

    soft: float
    hard: float

    def ending(self, moment: float) -> Deadlines:
        """The same, at the latest at ``moment``."""
        early = max(0.0, self.hard - moment)
        return Deadlines(self.soft - early, self.hard - early)


def tolerated(hourly: Usd) -> Usd:
    """The highest price at which a machine offered for ``hourly`` is kept; deadlines are computed from it."""
    return hourly.scaled(100 + PRICE_TOLERANCE_PERCENT, 100)


def deadlines(
    *, budget: Usd, spent: Usd, hourly: Usd, traffic: Usd, start: float, finish_s: float, teardown_s: float,
    max_hours: float | None = None, granularity_s: int = 1,
) -> Deadlines:  # fmt: skip
    """Turn money into time.

    Args:
        budget: hard cap of the whole run.
        spent: what earlier rentals of the run cost.
        hourly: GPU and disk of this rental.
        traffic: reserve for everything that will cross its network.
        start: Unix seconds from which it bills.
        finish_s: seconds to save a checkpoint and bring it home.
        teardown_s: seconds from the order to destroy to the end of billing; paid from the reserve after ``hard``.
        max_hours: the user's own limit, if any.
        granularity_s: seconds in a billing unit; the deadline falls on a whole one, since a begun one is paid.

    Returns:
        ``hard = start + (budget - spent - traffic - teardown reserve) / hourly``, ``soft`` earlier by ``finish_s``;
        ``soft`` may lie before ``start``: then nothing fits (see ``allow_create``).
    """
    reserve = teardown_reserve(hourly, teardown_s, granularity_s)
    left = budget - spent - traffic - reserve
    if hourly <= ZERO:
        seconds = FREE_MACHINE_HOURS * 3600.0
    else:
        whole = affordable_ms(left, hourly) // 1000
        seconds = float(whole - whole % granularity_s)
    if max_hours is not None:
        seconds = min(seconds, max_hours * 3600)
    return Deadlines(soft=start + seconds - finish_s, hard=start + seconds)


def teardown_reserve(hourly: Usd, teardown_s: float, granularity_s: int = 1) -> Usd:
    """What a rental costs from the order to destroy it to the end of its bill: whole billing units."""
    return per_hour(hourly, _whole(teardown_s, granularity_s) * 1000)


def unproven_s(span_s: float, teardown_s: float, granularity_s: int = 1) -> int:
    """How long a machine may exist that no client has looked at yet: at twice its price the budget holds as well.

    Half of what the budget pays for, reserve included, in whole billing units, less half of the time that its end may
    take. With ``span_s`` seconds until the hard deadline,

        2 × whole units of (result + teardown_s / 2) ≤ whole units of span_s + whole units of teardown_s
    """
    half = int(span_s + _whole(teardown_s, granularity_s)) // 2
    return max(1, int(half - half % granularity_s - teardown_s / 2))


def _unproven_for(boot_s: float, teardown_s: float, granularity_s: int) -> float:
    """The shortest span for which ``unproven_s`` leaves ``boot_s`` seconds."""
    return 2 * _whole(boot_s + teardown_s / 2, granularity_s) - _whole(teardown_s, granularity_s)


def _whole(seconds: float, granularity_s: int) -> int:
    """Rounded up to whole billing units."""
    return math.ceil(seconds / granularity_s) * granularity_s


def end_reserve(rental: Rental) -> Usd:
    """What ending a rental may cost, at the price that is put up with: whole billing units until it is gone, and a full
    line for as long as nobody can know of it."""
    hourly = max(rental.hourly, tolerated(rental.offer.price.hourly(rental.disk_gb)))
    return teardown_reserve(hourly, TEARDOWN_S, rental.granularity_s) + tolerated(surge_reserve(rental.offer))


def promised(rental: Rental, now: float) -> Usd:
    """What an open rental may still cost: until its hard deadline, and for its end."""
    return per_hour(rental.hourly, max(0, round((rental.hard_deadline - now) * 1000))) + end_reserve(rental)


def overdue(run: Run, rental: Rental, now: float) -> str:
    """Why a rental has to end now, no matter who looks after it: past its hard deadline, or what was spent so far,
    traffic as counted by its provider included, leaves less of the budget than ending it may cost. Empty while neither
    is so.

    Args:
        run: that pays for it.
        rental: an open one of the run.
        now: Unix seconds by the clock of the computer that rented.
    """
    if now >= rental.hard_deadline:
        return "past its hard deadline"
    reserves = Usd.total([end_reserve(one) for one in run.open_rentals] or [end_reserve(rental)])
    if run.budget - run_spent(run, now) < reserves:
        return "what was spent leaves no more of the budget than its end may cost"
    return ""


def allow_create(
    limits: Deadlines, *, start: float, needed_s: float, boot_s: float, hourly: Usd, minimum_s: int = 0,
    teardown_s: float = 0.0, granularity_s: int = 1,
) -> None:  # fmt: skip
    """Veto a rental whose deadline comes before it could have trained at all.

    Raises:
        BudgetError: fewer than ``needed_s`` seconds (boot and preparation) lie before the soft deadline, fewer than
            ``boot_s`` before the dead-man switch would fire unproven (see ``unproven_s``), or fewer than the
            ``minimum_s`` that are billed anyway before the hard one.
    """
    span_s = max(minimum_s, _unproven_for(boot_s, teardown_s, granularity_s))
    needed_s = max(needed_s, span_s - (limits.hard - limits.soft))
    if limits.soft - start < needed_s:
        short = per_hour(hourly, round((needed_s - (limits.soft - start)) * 1000))
        raise BudgetError(
            f"the budget leaves {max(0.0, limits.soft - start):.0f} s of rental, "
            f"fewer than the {needed_s:.0f} s until training begins",
            hint=f"Raise the budget by at least {short.rounded()}.",
        )
