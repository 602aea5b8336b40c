"""What is spent and how long a budget lasts: exact sums, rounded against us."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.budget.world import OFFER, PRICE

from gpurent.budget.errors import BudgetError
from gpurent.budget.events import Client
from gpurent.budget.guard import Deadlines, allow_create, deadlines, teardown_reserve, tolerated, unproven_s
from gpurent.budget.spend import accrued, estimated, run_spent
from gpurent.budget.state import Rental, RentalState, Run
from gpurent.model import Charges, Price
from gpurent.money import ZERO, Usd

START = 1_800_000_000.25
amounts = st.integers(0, 200_000_000).map(Usd)
rates = st.integers(1, 20_000_000).map(Usd)
spans = st.floats(0, 400_000, allow_nan=False)


@st.composite
def rentals(draw: st.DrawFn) -> Rental:
    price = Price(draw(rates), draw(amounts), draw(rates), draw(rates))
    disk = draw(st.integers(0, 500))
    return Rental(
        "gpurent-r-1", "r", "cloud", replace(OFFER, price=price), disk, price.hourly(disk), ZERO, RentalState.CREATED,
        START, START, START, draw(st.sampled_from([1, 60, 3600])), draw(st.integers(0, 7200)), ref="i-1",
        bytes_in=draw(st.integers(0, 10**12)), bytes_out=draw(st.integers(0, 10**12)),
    )  # fmt: skip


@given(rentals(), spans, spans)
def test_cost_never_falls_with_time(rental: Rental, early: float, later: float) -> None:
    """More time never costs less."""
    assert accrued(rental, START + early) <= accrued(rental, START + early + later)


@given(st.lists(rentals(), max_size=5), spans)
def test_a_run_costs_the_exact_sum_of_its_rentals(many: list[Rental], span: float) -> None:
    """Not a micro-dollar is lost or made between the lines and the total."""
    run = Run("r", "cat", START, ZERO, {}, Path(), Client(pid=1, start=0.0, host=""), rentals=tuple(many))
    parts = [estimated(one, START + span) for one in many]
    cents = sum(p.gpu.micros + p.disk.micros + p.traffic_in.micros + p.traffic_out.micros for p in parts)
    assert run_spent(run, START + span).micros == cents


@given(amounts, amounts, rates, amounts, st.floats(0, 5000), st.floats(0, 900), st.sampled_from([1, 60, 3600]))
def test_the_hard_deadline_never_lets_cost_exceed_the_budget(
    budget: Usd, spent: Usd, hourly: Usd, traffic: Usd, finish: float, teardown: float, grain: int
) -> None:
    """Spent, whole billing units until the machine is gone, and traffic fit into the budget, at the tolerated price."""
    limits = deadlines(
        budget=budget, spent=spent, hourly=tolerated(hourly), traffic=traffic, start=START, finish_s=finish,
        teardown_s=teardown, granularity_s=grain,
    )  # fmt: skip
    reserve = traffic + teardown_reserve(tolerated(hourly), teardown, grain)
    rental = Rental(
        "t", "r", "cloud", replace(OFFER, price=Price(hourly)), 0, tolerated(hourly), ZERO, RentalState.CREATED, START,
        0.0, 0.0, grain, ref="i",
    )  # fmt: skip
    until_gone = accrued(rental, limits.hard + math.floor(teardown))
    assert limits.soft == pytest.approx(limits.hard - finish, abs=1e-6)
    if spent + reserve <= budget:
        assert spent + until_gone + traffic <= budget
    else:
        assert limits.hard == START


@given(st.integers(1, 10**6), st.floats(0, 900), st.sampled_from([1, 60, 900, 3600]))
def test_at_twice_the_price_a_machine_nobody_looked_at_stays_within_the_budget(
    span: int, teardown: float, grain: int
) -> None:
    """Whole billing units until it is gone, doubled, are no more than the budget's, reserve included."""
    span -= span % grain
    first = unproven_s(span, teardown, grain)
    units = -(-math.ceil(first + teardown / 2) // grain)
    affordable = span // grain + math.ceil(teardown / grain)
    assert first == 1 or 2 * units <= affordable


@given(st.integers(2, 10**5), st.floats(0, 900), st.sampled_from([1, 60, 900]))
def test_a_rental_is_vetoed_exactly_if_it_would_end_before_it_can_have_booted(
    boot: int, teardown: float, grain: int
) -> None:
    """One second less of rental, and the switch would fire before SSH can answer. It always gets a second."""
    for span in (first_s for base in (2 * boot, 2 * (boot + grain)) for first_s in range(base, base + 3)):
        span += -span % grain
        limits = Deadlines(START + span, START + span)
        fits = unproven_s(span, teardown, grain) >= boot
        try:
            allow_create(limits, start=START, needed_s=0, boot_s=boot, hourly=Usd.parse(1), teardown_s=teardown,
                         granularity_s=grain)  # fmt: skip
        except BudgetError:
            assert not fits
        else:
            assert fits


@given(amounts, st.one_of(st.none(), st.floats(0.1, 100)))
def test_a_free_machine_is_limited_by_hours_only(budget: Usd, hours: float | None) -> None:
    """No money limits it, but it ends some day."""
    limits = deadlines(
        budget=budget, spent=ZERO, hourly=ZERO, traffic=ZERO, start=START, finish_s=60, teardown_s=30, max_hours=hours
    )
    assert limits.hard == pytest.approx(START + (7 * 24 if hours is None else hours) * 3600)


def test_a_rental_that_cannot_reach_training_is_vetoed() -> None:
    """One cent buys no boot; ten dollars do, and the refusal names what is missing."""
    poor, rich = (
        deadlines(budget=Usd.parse(b), spent=ZERO, hourly=Usd.parse(1), traffic=ZERO, start=START, finish_s=60,
                  teardown_s=30) for b in ("0.01", "10")
    )  # fmt: skip
    with pytest.raises(BudgetError) as vetoed:
        allow_create(poor, start=START, needed_s=300, boot_s=0, hourly=Usd.parse(1))
    assert "Raise the budget" in vetoed.value.hint
    allow_create(rich, start=START, needed_s=300, boot_s=0, hourly=Usd.parse(1))


def test_the_final_bill_wins_and_a_preliminary_one_only_if_dearer() -> None:
    """What the provider said last counts, even when it is less; until then the dearer reading does."""
    rental = Rental("t", "r", "cloud", OFFER, 0, PRICE.gpu_hour, ZERO, RentalState.CREATED, START, 0.0, 0.0, ref="i")
    hour = START + 3600
    assert accrued(rental, hour) == Usd.parse("0.40")
    cheap, dear = Charges(Usd.parse("0.10"), final=False), Charges(Usd.parse("0.90"), final=False)
    assert accrued(replace(rental, charged=cheap), hour) == Usd.parse("0.40")
    assert accrued(replace(rental, charged=dear), hour) == Usd.parse("0.90")
    assert accrued(replace(rental, charged=replace(cheap, final=True)), hour) == Usd.parse("0.10")


@pytest.mark.parametrize(("state", "ref"), [(RentalState.REFUSED, None), (RentalState.GONE, None)])
def test_what_never_existed_costs_nothing(state: RentalState, ref: str | None) -> None:
    """Neither a refused create nor one that turned out to have made nothing is charged."""
    rental = Rental("t", "r", "cloud", OFFER, 20, PRICE.hourly(20), ZERO, state, START, 0.0, 0.0, gone_at=START + 9e4)
    assert accrued(rental, START + 1e5) == ZERO
