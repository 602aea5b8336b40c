"""How long a machine may wait, and how much of a job fits into what is left."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gpurent.budget.guard import deadlines
from gpurent.model import Offer, Price
from gpurent.money import Usd, per_hour
from gpurent.plan.leftover import fitting_steps, idle_until
from gpurent.plan.pace import Pace
from gpurent.plan.timeline import predict
from gpurent.plan.typical import typical_workload

OFFER = Offer("cloud", "1", "RTX 3090", 24_576, Price(Usd.parse("0.36")))
SECONDS = st.floats(0, 1e6, allow_nan=False)


@settings(deadline=None)
@given(
    budget=st.integers(0, 10**9),
    spent=st.integers(0, 10**9),
    hourly=st.integers(1, 10**8),
    idle_s=SECONDS,
    passed_s=SECONDS,
    teardown_s=st.floats(0, 3600),
)
def test_waiting_never_costs_more_than_the_budget_has_left(
    budget: int, spent: int, hourly: int, idle_s: float, passed_s: float, teardown_s: float
) -> None:
    """Whenever the wait begins and however long it may take: it ends by the hard deadline, and what is spent until then
    lies within the budget."""
    limits = deadlines(
        budget=Usd(budget),
        spent=Usd(spent),
        hourly=Usd(hourly),
        traffic=Usd(0),
        start=0.0,
        finish_s=30.0,
        teardown_s=teardown_s,
    )
    now = min(passed_s, max(0.0, limits.soft))
    until = idle_until(now, idle_s, limits.soft)
    assert now <= until <= now + idle_s
    if limits.soft >= 0:
        assert until <= limits.hard
        assert Usd(spent) + per_hour(Usd(hourly), round(until * 1000)) <= Usd(max(budget, spent))


@settings(deadline=None)
@given(steps=st.integers(1, 10**6), left_s=SECONDS, planned=st.floats(0.1, 1e4), taken=st.floats(0.1, 1e4))
def test_what_is_said_to_fit_fits(steps: int, left_s: float, planned: float, taken: float) -> None:
    """A job of so many steps, with uploads and results around it, is forecast to be over in the time that is left."""
    job = predict(replace(typical_workload(50), steps=steps), OFFER)
    pace = Pace(planned, taken)
    fit = fitting_steps(job, pace, steps, left_s)
    assert 0 <= fit <= steps
    if fit:
        shorter = replace(job, train_s=job.train_s.times(fit / steps))
        assert pace.forecast(shorter) <= left_s * (1 + 1e-6)
