"""What each job of a run cost: its part of the set-up, and its training."""

from __future__ import annotations

from collections.abc import Mapping

from gpurent.budget.spend import accrued
from gpurent.budget.state import Rental, Run
from gpurent.money import ZERO, Usd


def shares(run: Run, now: float) -> Mapping[str, tuple[Usd, Usd]]:
    """What each job cost, as set-up and as training, by its name. All shares of a run add up to what it cost.

    Rentals on which no job was begun are set-up of all jobs that were begun elsewhere.
    """
    found: dict[str, tuple[Usd, Usd]] = {}
    names = [job.name for rental in run.rentals for job in rental.jobs]
    for rental in run.rentals:
        begun = [job.name for job in rental.jobs] or names
        total = accrued(rental, now)
        whole = max(1, round(_span(rental, now)))
        training = {name: total.scaled(round(span), whole) for name, span in _trained(rental, now).items()}
        rest = max(ZERO, total - Usd.total(list(training.values())))
        for index, name in enumerate(begun):
            setup, trained = found.get(name, (ZERO, ZERO))
            part = Usd(rest.micros // len(begun) + (index < rest.micros % len(begun)))
            found[name] = setup + part, trained + training.get(name, ZERO)
    return found


def _span(rental: Rental, now: float) -> float:
    """Milliseconds."""
    return 1000 * max(0.0, (now if rental.gone_at is None else rental.gone_at) - rental.intent_at)


def _trained(rental: Rental, now: float) -> dict[str, float]:
    """Milliseconds in which each job was training."""
    end = now if rental.gone_at is None else rental.gone_at
    return {
        job.name: 1000 * max(0.0, min(end, end if job.over_at is None else job.over_at) - job.started_at)
        for job in rental.jobs
    }
