"""What each job of a run cost: its part of the set-up, and its training; and what a session's machine cost unused."""

from __future__ import annotations

from collections.abc import Mapping

from gpurent.budget.spend import accrued
from gpurent.budget.state import Rental, Run
from gpurent.money import ZERO, Usd


def shares(run: Run, now: float) -> Mapping[str, tuple[Usd, Usd]]:
    """What each job cost, as set-up and as training, by its name. With ``idled`` they add up to what the run cost.

    Rentals on which no job was begun are set-up of all jobs that were begun elsewhere.
    """
    found: dict[str, tuple[Usd, Usd]] = {}
    names = [job.name for rental in run.rentals for job in rental.jobs]
    for rental in run.rentals:
        begun = [job.name for job in rental.jobs] or names
        total = accrued(rental, now)
        whole = max(1, round(_span(rental, now)))
        training = {name: total.scaled(round(span), whole) for name, span in _trained(rental, now).items()}
        rest = max(ZERO, total - Usd.total(list(training.values())) - _idled(rental, now))
        for index, name in enumerate(begun):
            setup, trained = found.get(name, (ZERO, ZERO))
            part = Usd(rest.micros // len(begun) + (index < rest.micros % len(begun)))
            found[name] = setup + part, trained + training.get(name, ZERO)
    return found


def idled(run: Run, now: float) -> Usd:
    """What the machines of a session cost while they had no job."""
    return Usd.total([_idled(rental, now) for rental in run.rentals])


def _idled(rental: Rental, now: float) -> Usd:
    end = now if rental.gone_at is None else rental.gone_at
    waited = (max(0.0, min(end, end if one.over_at is None else one.over_at) - one.since) for one in rental.idle)
    whole = max(1, round(_span(rental, now)))
    return accrued(rental, now).scaled(min(whole, round(1000 * sum(waited))), whole)


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
