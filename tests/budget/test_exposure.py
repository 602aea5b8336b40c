"""Traffic that nobody here causes: what a full line may cost, how often it is looked for, and what is kept back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.budget.world import OFFER

from gpurent.budget.events import Client
from gpurent.budget.guard import TEARDOWN_S, deadlines, end_reserve, overdue, tolerated
from gpurent.budget.spend import run_spent
from gpurent.budget.state import Rental, RentalState, Run
from gpurent.exposure import (
    LOOK_FOR,
    LOOK_LATEST_S,
    LOOK_SOONEST_S,
    REACT_S,
    exposure,
    look_every_s,
    risk,
    surge_reserve,
    worst_hourly,
)
from gpurent.model import Offer, Price
from gpurent.money import ZERO, Usd, per_hour
from gpurent.plan.timeline import DESTROY_S

START = 1_800_000_000.0
prices = st.integers(0, 50_000).map(Usd)
speeds = st.floats(1, 10_000)


@st.composite
def offers(draw: st.DrawFn) -> Offer:
    price = Price(draw(st.integers(10_000, 3_000_000).map(Usd)), draw(prices), draw(prices), draw(prices))
    return replace(OFFER, price=price, down_mbps=draw(speeds), up_mbps=draw(speeds))


@given(offers())
def test_a_full_line_costs_at_most_a_cent_between_looks_or_is_looked_at_as_often_as_services_allow(
    offer: Offer,
) -> None:
    """And free traffic is hardly looked at."""
    every, worst = look_every_s(offer), worst_hourly(offer)
    if worst == ZERO:
        assert every == LOOK_LATEST_S and surge_reserve(offer) == exposure(offer, 3600) == ZERO
        return
    assert LOOK_SOONEST_S <= every <= LOOK_LATEST_S
    assert every == LOOK_SOONEST_S or per_hour(worst, int(every * 1000)) <= LOOK_FOR


def test_the_worst_case_is_bandwidth_times_price() -> None:
    """180 Mbit/s out at $0.006 a GB and 310 in at $0.004 are a dollar an hour."""
    price = Price(Usd.parse("0.062"), in_gb=Usd.parse("0.004"), out_gb=Usd.parse("0.006"))
    offer = replace(OFFER, price=price, down_mbps=310.0, up_mbps=180.0)
    assert worst_hourly(offer) == Usd.parse("1.044")
    assert exposure(offer, 7200) == Usd.parse("2.088") and risk(offer, 7200) == Usd.parse("0.04176")


@given(offers(), st.floats(0, 1e6), st.floats(0, 1e6))
def test_exposure_grows_with_time(offer: Offer, seconds: float, more: float) -> None:
    """Nothing is cheaper for lasting longer."""
    assert exposure(offer, seconds) <= exposure(offer, seconds + more)


def rented(offer: Offer, hard: float, counted: int = 0) -> tuple[Run, Rental]:
    """A training on the offer since ``START`` that sent so many bytes, in a run that pays a dollar."""
    rental = Rental(
        "t", "r", "cloud", offer, 20, offer.price.hourly(20), ZERO, RentalState.TRAINING, START, hard - 60, hard,
        ref="i-1", bytes_out=counted,
    )  # fmt: skip
    client = Client(pid=1, start=0.0, host="")
    return Run("r", "cat", START, Usd.parse("5"), {}, Path(), client, rentals=(rental,)), rental


@given(offers(), st.floats(0, 1), st.floats(0, 1))
def test_a_surge_between_two_looks_never_takes_more_than_the_budget(offer: Offer, begins: float, share: float) -> None:
    """A full line from right after a look that showed nothing, until the end that the next look brings: it fits."""
    budget = Usd.parse("5")
    limits = deadlines(
        budget=budget, spent=ZERO, hourly=tolerated(offer.price.hourly(20)), traffic=tolerated(surge_reserve(offer)),
        start=START, finish_s=60, teardown_s=TEARDOWN_S,
    )  # fmt: skip
    look = START + begins * (limits.hard - START)
    before = int(share * 20e9)
    run, rental = rented(offer, limits.hard, before)
    if overdue(run, rental, look):
        return  # it would have been ended earlier
    gone = min(limits.hard, look + look_every_s(offer)) + REACT_S
    line = [mbps * 1e6 / 8 * (gone - look) for mbps in (offer.down_mbps, offer.up_mbps)]
    surged = replace(rental, bytes_in=int(line[0]), bytes_out=before + int(line[1]), gone_at=gone)
    assert run_spent(replace(run, rentals=(surged,)), gone) <= budget


@given(offers(), st.integers(0, 10**13))
def test_what_was_counted_ends_a_rental_before_its_deadline(offer: Offer, counted: int) -> None:
    """As soon as less is left than its end may cost, and not before; whatever the deadline says."""
    run, rental = rented(offer, START + 1e6, counted)
    left = run.budget - run_spent(run, START + 10)
    assert bool(overdue(run, rental, START + 10)) == (left < end_reserve(rental))
    assert overdue(run, rental, START + 1e6) == "past its hard deadline"


def test_the_quote_and_the_guard_keep_the_same_time_for_a_destroy() -> None:
    """Else a budget that a quote asks for would not suffice."""
    assert DESTROY_S.high == TEARDOWN_S
