"""Sandbox bills: whole seconds begun, micro-dollars rounded up, nothing after the end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent.clock import ManualClock
from gpurent.model import Price
from gpurent.money import ZERO, Usd
from gpurent_sandbox.billing import Usage, bill, whole_seconds
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault, Faults
from gpurent_sandbox.market import Market, Order, Refusal, State

PRICE = Price(Usd.parse("0.36"), Usd.parse("0.10"), Usd.parse("0.01"), Usd.parse("0.02"))
ORDER = Order("m", "tag", "image", 30, "key")

money = st.integers(0, 5_000_000).map(Usd)
prices = st.builds(Price, money, money, money, money)
usages = st.builds(Usage, *[st.integers(0, 10**7)] * 2, *[st.integers(0, 10**12)] * 2)


def market(balance: str = "100", **more: object) -> tuple[Market, ManualClock, Faults]:
    clock, rng = ManualClock(), random.Random(1)
    faults = Faults(rng)
    machine = Machine("m", "RTX 4090", 24576, PRICE, boot_s=10.0, **more)  # type: ignore[arg-type]
    return Market([machine], clock=clock, faults=faults, rng=rng, balance=Usd.parse(balance)), clock, faults


@given(price=prices, disk_gb=st.integers(1, 1000), first=usages, more=usages)
def test_a_bill_never_shrinks_and_never_gains_by_splitting(
    price: Price, disk_gb: int, first: Usage, more: Usage
) -> None:
    """More usage costs at least as much, and at most what both parts cost apart."""
    both = Usage(
        first.gpu_s + more.gpu_s,
        first.disk_s + more.disk_s,
        first.in_bytes + more.in_bytes,
        first.out_bytes + more.out_bytes,
    )
    whole = bill(price, disk_gb, both, final=True).total
    one, two = (bill(price, disk_gb, usage, final=True).total for usage in (first, more))
    assert max(one, two) <= whole <= one + two


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_seconds_are_begun_seconds(start: float, length: float) -> None:
    """A begun second counts whole; time never counts backwards."""
    seconds = whole_seconds(start, start + length)
    assert length - 0.002 <= seconds <= length + 1.002
    assert whole_seconds(start + length, start) in (0, 1)
    assert whole_seconds(start, start) == 0


def test_an_hour_costs_what_the_offer_says() -> None:
    """GPU, disk and traffic of one hour, to the micro-dollar."""
    rented, clock, _ = market()
    ref = rented.create(ORDER).id
    rented.traffic(ref, in_bytes=2 * 10**9, out_bytes=5 * 10**8)
    clock.advance(3600)
    charges = rented.charges(ref)
    assert charges.gpu == Usd.parse("0.36")
    assert charges.disk == Usd.parse("3").scaled(1, 720)
    assert (charges.traffic_in, charges.traffic_out) == (Usd.parse("0.02"), Usd.parse("0.01"))
    assert rented.balance() == Usd.parse("100") - charges.total


def test_the_bill_stops_with_destroy_and_stays_known() -> None:
    """Nothing is added after the end, and the bill is final."""
    rented, clock, _ = market()
    ref = rented.create(ORDER).id
    clock.advance(60)
    assert rented.end(ref)
    rented.forget(ref)
    then = rented.charges(ref)
    clock.advance(3600)
    assert rented.charges(ref) == then
    assert then.final


def test_an_empty_balance_stops_the_gpu_at_that_moment() -> None:
    """However late anybody looks, the GPU is billed up to the moment when the money was used up; the disk goes on."""
    rented, clock, _ = market("0.36")
    ref = rented.create(ORDER).id
    clock.advance(10 * 3600)
    held = rented.get(ref)
    assert held.state(clock.now()) is State.STOPPED
    assert Usd.parse("0.35") < rented.charges(ref).gpu <= Usd.parse("0.36")
    assert rented.balance() < ZERO
    with pytest.raises(Refusal, match="used up"):
        rented.create(ORDER)


def test_the_longest_rental_ends_by_itself() -> None:
    """A machine that may be rented for an hour is stopped after an hour."""
    rented, clock, _ = market(max_duration_s=3600)
    ref = rented.create(ORDER).id
    clock.advance(7200)
    assert rented.get(ref).stopped_at == rented.get(ref).created_at + 3600


def test_boot_goes_through_its_states() -> None:
    """created, loading, starting; running needs a host with a port."""
    rented, clock, _ = market()
    ref = rented.create(ORDER).id
    seen = []
    for _ in range(4):
        seen.append(rented.get(ref).state(clock.now()))
        clock.advance(4)
    rented.booted(ref, 2222)
    seen.append(rented.get(ref).state(clock.now()))
    assert seen == [State.CREATED, State.LOADING, State.STARTING, State.STARTING, State.RUNNING]


def test_a_delayed_destroy_bills_until_it_happens() -> None:
    """destroy_lag: accepted, still there and billing, then gone at its time."""
    rented, clock, faults = market()
    ref = rented.create(ORDER).id
    faults.set(Fault.DESTROY_LAG, value=30)
    assert not rented.end(ref)
    assert [held.id for held in rented.alive()] == [ref]
    clock.advance(100)
    assert rented.ended() == [ref]
    assert rented.charges(ref).gpu == PRICE.gpu_hour.scaled(30, 3600)


def test_a_vanished_host_bills_no_more() -> None:
    """host_vanishes: gone from every listing at its time."""
    rented, clock, faults = market()
    faults.set(Fault.HOST_VANISHES, value=5)
    ref = rented.create(ORDER).id
    clock.advance(100)
    assert rented.instances() == []
    assert rented.charges(ref).gpu == PRICE.gpu_hour.scaled(5, 3600)


@given(st.floats(0, 2e9), st.floats(0, 1e6), st.sampled_from((1, 60, 3600)), st.sampled_from((0, 600)))
def test_a_begun_unit_is_paid_and_a_minimum_at_least(start: float, length: float, unit_s: int, minimum_s: int) -> None:
    """Never less than what passed, never a whole unit more, and whole units above the minimum."""
    seconds = whole_seconds(start, start + length, unit_s, minimum_s)
    assert max(minimum_s, length - 0.01) <= seconds <= max(minimum_s, length + unit_s + 0.01)
    assert seconds == minimum_s or seconds % unit_s == 0
