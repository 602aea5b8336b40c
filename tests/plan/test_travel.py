"""How often a state comes home while its training goes on."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gpurent.model import Offer, Price
from gpurent.money import ZERO, Usd
from gpurent.plan.travel import EVERY_S, LINE_SHARE, Travel, lost_per_hour

travels = st.builds(
    Travel, size=st.integers(0, 10**10), mbps=st.floats(0.1, 10_000), hourly=st.builds(Usd, st.integers(0, 10**7)),
    out_gb=st.builds(Usd, st.integers(0, 100_000)), lost_per_hour=st.floats(0, 2),
)  # fmt: skip
spans = st.floats(0, 10**6)


@settings(deadline=None)
@given(travels, spans, spans)
def test_what_is_fetched_costs_no_more_than_the_loss_that_it_avoids(one: Travel, since_s: float, left_s: float) -> None:
    """By expectation, until the next one comes or the training ends."""
    if one.worth(since_s, left_s):
        chance = one.lost_per_hour / 3600 * min(left_s, one.every_s)
        assert one.price.micros <= chance * since_s * one.hourly.micros / 3600 + 1e-6
        assert left_s > one.takes_s and since_s >= max(EVERY_S, LINE_SHARE * one.takes_s)


@settings(deadline=None)
@given(travels, st.floats(1, 10))
def test_dearer_traffic_means_fewer_states_and_a_greater_risk_or_price_more(one: Travel, factor: float) -> None:
    """Monotone in everything that the decision rests on."""
    assert replace(one, out_gb=one.out_gb.scaled(round(factor * 10), 10)).every_s >= one.every_s
    assert replace(one, lost_per_hour=one.lost_per_hour * factor).every_s <= one.every_s
    assert replace(one, hourly=one.hourly.scaled(round(factor * 10), 10)).every_s <= one.every_s
    assert replace(one, size=round(one.size * factor)).every_s >= one.every_s


@settings(deadline=None)
@given(travels, spans)
def test_the_number_of_states_fits_into_the_training(one: Travel, seconds: float) -> None:
    """None at its very end, where the result itself comes home."""
    count = one.count(seconds)
    assert count == 0 or count * one.every_s <= seconds


def test_the_interval_is_that_of_young_where_traffic_has_a_price() -> None:
    """2 cents for a state, a dollar an hour, lost every eight hours: every 34 minutes."""
    one = Travel(10**9, 1000, Usd.parse("1"), Usd.parse("0.02"), 1 / 8)
    assert math.isclose(one.every_s / 60, 33.9, abs_tol=0.1)
    assert one.worth(one.every_s + 1, 10 * one.every_s) and not one.worth(one.every_s - 1, 10 * one.every_s)


def test_what_costs_nothing_comes_as_often_as_the_line_allows_and_what_saves_nothing_never_comes() -> None:
    """A machine of one's own costs nothing by the hour."""
    free = Travel(250 * 10**6, 200, Usd.parse("1"), ZERO, 0.01)
    assert free.every_s == LINE_SHARE * 10.0
    assert math.isinf(replace(free, hourly=ZERO, out_gb=Usd.parse("0.01")).every_s)


def test_an_interruptible_machine_is_lost_more_often() -> None:
    """And a less reliable one."""
    offer = Offer("p", "1", "RTX 4090", 24_000, Price(Usd(1), Usd(1), Usd(1), Usd(1)), reliability=0.99)
    assert lost_per_hour(offer) < lost_per_hour(replace(offer, reliability=0.9))
    assert lost_per_hour(replace(offer, interruptible=True)) > 0.1
