"""What a measured line means for a machine: new estimates, and whether it is given back. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurent.model import Line, Offer, Price
from gpurent.money import Usd
from gpurent.plan.line import Ways, forecast, told, too_late, too_slow
from gpurent.plan.timeline import predict
from gpurent.plan.typical import typical_workload

OFFER = Offer("cloud", "1", "RTX 3090", 24_576, Price(Usd.parse("0.36")), down_mbps=640, up_mbps=420)
HOURLY = Usd.parse("0.36")
"""100 micro-dollars a second."""
LOAD = typical_workload(50)
PLANNED = predict(LOAD, OFFER)
LEAVING = 100.0 * 120
"""Two minutes on another machine."""
FAST = Line(20.0, 50.0)
"""Of a usual home."""


def given_back(ways: Ways, leaving: float = LEAVING) -> str:
    return too_slow([(PLANNED, LOAD)], ways, HOURLY, leaving)


def test_a_machine_whose_hub_is_slow_is_given_back() -> None:
    """2.1 GB at 25 Mbit/s instead of 256: eleven minutes."""
    assert "longer than its offer promises" in given_back(Ways(Line(20, 24), hub_mbps=25.0))
    assert not given_back(Ways(FAST, hub_mbps=250.0))


def test_a_slow_home_line_is_no_machines_fault() -> None:
    """Neither where the machine reads the hub fast, nor where nothing shows that we can do more."""
    dataset = replace(LOAD, base_download_bytes=0, upload_bytes=3 * 10**9)
    planned = predict(dataset, OFFER)
    for ways in (
        Ways(Line(1, 5), hub_mbps=300.0),
        Ways(Line(1, 5)),
        Ways(Line(1, 5), home=Line(1.5, 6)),
        Ways(Line(1, 5), hub_mbps=300.0, home=Line(100, 100)),
    ):
        assert not too_slow([(planned, dataset)], ways, HOURLY, LEAVING)
    assert too_slow([(planned, dataset)], Ways(Line(1, 5), home=Line(20, 50)), HOURLY, LEAVING)
    assert too_slow([(planned, dataset)], Ways(Line(1, 5), hub_mbps=1.5), HOURLY, LEAVING)


def test_a_slow_line_that_costs_less_than_another_machine_is_kept() -> None:
    """A small job does not care; nor does one that has nowhere else to go."""
    small = replace(LOAD, base_download_bytes=10**7, upload_bytes=10**6)
    slow = Ways(Line(2, 2), hub_mbps=25.0)
    assert not too_slow([(predict(small, OFFER), small)], slow, HOURLY, LEAVING)
    assert given_back(slow) and not given_back(slow, math.inf)


def test_measured_rates_replace_those_of_the_offer() -> None:
    """Upload over our line, base model over the machine's own, results back; what nobody measured stays."""
    found = forecast(PLANNED, LOAD, Ways(Line(8, 16), hub_mbps=80.0))
    assert found.upload_s.mid == pytest.approx(LOAD.upload_bytes * 8e-6 / 8)
    assert found.base_model_s.mid == pytest.approx(LOAD.base_download_bytes * 8e-6 / 80)
    assert found.collect_s.mid == pytest.approx(LOAD.checkpoint_bytes * 8e-6 / 16)
    assert (found.boot_s, found.train_s, found.destroy_s) == (PLANNED.boot_s, PLANNED.train_s, PLANNED.destroy_s)
    assert forecast(PLANNED, LOAD, Ways(Line(8, 16))).base_model_s == PLANNED.base_model_s


def test_files_that_cannot_arrive_in_time_are_not_sent() -> None:
    """At a hundredth of the rate, an hour is too short."""
    crawling = forecast(PLANNED, LOAD, Ways(Line(0.1, 1)))
    assert "at least" in too_late(crawling, 600.0) and not too_late(PLANNED, 600.0)


def test_what_was_measured_is_told_beside_what_was_offered() -> None:
    """In the notice, in the receipt, and in the report of a failure."""
    said = told(Ways(Line(24.4, 2.31), 25.0), OFFER)
    assert said == "24 to the machine, 2.3 back, 25 from the hub Mbit/s (offered: 640 and 420)"


rates = st.floats(0, 1e5, allow_nan=False)
lines = st.builds(Line, rates, rates)


@settings(deadline=None)
@given(lines, st.none() | rates, st.none() | lines, st.floats(0, 1e9))
def test_whatever_is_measured_there_is_an_answer(line: Line, hub: float | None, home: Line | None, cost: float) -> None:
    """Also for rates of nothing; and dearer to leave means kept at least as often."""
    ways = Ways(line, hub, home)
    kept = not given_back(ways, cost)
    assert kept <= (not given_back(ways, cost * 2 + 1))
    assert forecast(PLANNED, LOAD, ways, blamed_only=True).train_s == PLANNED.train_s
