"""How long a machine is waited for: by what waiting and what leaving cost."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent.clock import ManualClock
from gpurent.errors import HostUnreachable
from gpurent.jobs.boot import Boot, Held, Patience
from gpurent.model import Instance, Offer, Phase, Price
from gpurent.money import Usd
from gpurent.plan.ranges import Range
from gpurent.plan.waiting import LEAST_S, MOST_S, broken_share, patience_s, to_ssh

OFFER = Offer("vastai", "1", "RTX 4090", 24_000, Price(Usd(400_000)), reliability=0.98)
hourly = st.integers(1_000, 20_000_000).map(Usd)
leaving = st.floats(0, 1e8)
broken = st.floats(0.01, 0.5)
takes = st.tuples(st.floats(0, 600), st.floats(1, 1500)).map(lambda one: Range(one[0], sum(one), 3 * sum(one)))


@given(takes, hourly, leaving, broken)
def test_a_wait_has_bounds(takes: Range, hourly: Usd, leaving: float, broken: float) -> None:
    """Whatever the prices are."""
    assert LEAST_S <= patience_s(takes, hourly, leaving, broken) <= MOST_S


@given(takes, hourly, leaving, leaving, broken)
def test_the_dearer_it_is_to_leave_the_longer_is_the_wait(
    takes: Range, hourly: Usd, one: float, other: float, broken: float
) -> None:
    """Where there is nothing else to rent, it is the longest."""
    cheap, dear = sorted((one, other))
    assert patience_s(takes, hourly, cheap, broken) <= patience_s(takes, hourly, dear, broken)
    assert patience_s(takes, hourly, math.inf, broken) == MOST_S


@given(takes, hourly, hourly, leaving, broken)
def test_the_dearer_a_second_is_the_shorter_is_the_wait(
    takes: Range, one: Usd, other: Usd, leaving: float, broken: float
) -> None:
    """With the same cost of leaving."""
    cheap, dear = sorted((one, other))
    assert patience_s(takes, dear, leaving, broken) <= patience_s(takes, cheap, leaving, broken)


@given(takes, hourly, leaving, broken, broken)
def test_a_machine_that_is_more_often_broken_is_given_up_no_later(
    takes: Range, hourly: Usd, leaving: float, one: float, other: float
) -> None:
    """Its silence says more."""
    good, bad = sorted((one, other))
    assert patience_s(takes, hourly, leaving, bad) <= patience_s(takes, hourly, leaving, good)


@given(takes, st.integers(1_000, 1_000_000), st.floats(1, 1e6), broken, st.integers(2, 20))
def test_only_the_proportion_of_the_prices_counts(
    takes: Range, hourly: int, leaving: float, broken: float, factor: int
) -> None:
    """In another currency the decision would be the same."""
    here = patience_s(takes, Usd(hourly), leaving, broken)
    assert math.isclose(here, patience_s(takes, Usd(hourly * factor), leaving * factor, broken), rel_tol=1e-6)


def waits(mbps: float) -> float:
    """Minutes for an offer whose like stands beside it, at the same price."""
    takes = to_ssh(replace(OFFER, down_mbps=mbps))
    alike = (takes.mid + 15) * OFFER.price.gpu_hour.micros / 3600
    return patience_s(takes, OFFER.price.gpu_hour, alike, broken_share(OFFER)) / 60


def test_patience_follows_the_size_of_the_image_and_the_line_of_the_host() -> None:
    """A good machine on a slow line is not given up while it pulls, and a silent one on a fast line soon is."""
    assert waits(25) > to_ssh(replace(OFFER, down_mbps=25)).low / 60 > 18
    assert 3 <= waits(1000) < 9 < waits(100) < waits(25) <= 30


def test_a_provider_that_knows_how_long_its_machines_take_is_believed() -> None:
    """The pull comes on top."""
    known, told = to_ssh(replace(OFFER, boot_s=20.0)), to_ssh(OFFER)
    assert known.low < told.low and known.mid < told.mid
    assert to_ssh(replace(OFFER, boot_s=20.0, down_mbps=10_000)).mid < 25


@pytest.mark.parametrize(("up_at", "ends"), [(None, 900.0), (100.0, 280.0), (800.0, 980.0)])
def test_pull_and_boot_are_waited_for_one_after_the_other(up_at: float | None, ends: float) -> None:
    """Where the provider says that the container runs, the image is there, and only SSH is left to wait for."""
    clock, asked = ManualClock(), []

    class Silent:
        def get(self, ref: str) -> Instance:
            up = None if up_at is None else clock.monotonic() >= up_at
            return Instance("vastai", ref, "tag", Phase.STARTING, OFFER.price, disk_gb=10, up=up)

    class Watched:
        def tick(self, machine: object, *, silent_s: float, patience_s: float) -> None:
            asked.append(silent_s)
            if silent_s > patience_s:
                raise HostUnreachable("the machine has not answered")

    anything: Any = None
    provider: Any = Silent()
    watch: Any = Watched()
    held = Held("run", "tag", "1", OFFER, anything)
    boot = Boot(held, provider, anything, anything, clock, watch, print, Patience(), True, 900.0, 180.0)
    with pytest.raises(HostUnreachable, match="no SSH on 1"):
        boot.reach()
    assert ends < asked[-1] <= ends + 5
