"""What a session costs: exact, rounded up, never less with more time."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from tests.plan.world import JOB, PRICE, free, offers, prices, workloads

from gpurent.model import Need, Offer, Price, Workload
from gpurent.money import ZERO, Usd
from gpurent.plan.cost import cost, session_cost, traffic
from gpurent.plan.quote import make_quote

seconds = st.floats(0, 10**6, allow_nan=False)
sizes = st.integers(0, 10**12)
disks = st.integers(0, 1000)


@given(prices, disks, seconds, sizes, sizes)
def test_the_total_is_the_exact_sum_of_its_parts(
    price: Price, disk: int, time: float, bytes_in: int, bytes_out: int
) -> None:
    """Not a micro-dollar is lost or made between the parts and the total, and none is negative."""
    bill = cost(price, disk, time, bytes_in, bytes_out=bytes_out)
    parts = (bill.gpu, bill.disk, bill.traffic_in, bill.traffic_out)
    assert bill.total.micros == sum(part.micros for part in parts)
    assert min(parts) >= ZERO


@given(prices, disks, seconds, seconds, sizes, sizes)
def test_more_time_never_costs_less(
    price: Price, disk: int, time: float, more: float, bytes_in: int, bytes_out: int
) -> None:
    """Each part grows with time or stays."""
    early, late = (cost(price, disk, span, bytes_in, bytes_out=bytes_out) for span in (time, time + more))
    assert early.gpu <= late.gpu
    assert early.disk <= late.disk
    assert early.total <= late.total


@given(prices, disks, st.integers(0, 10**9), sizes, sizes)
def test_each_part_rounds_up_by_less_than_a_micro_dollar(
    price: Price, disk: int, eighths: int, bytes_in: int, bytes_out: int
) -> None:
    """Against exact fractions: never below the true amount, never a whole micro-dollar above it."""
    bill = cost(price, disk, eighths / 8, bytes_in, bytes_out=bytes_out)
    hours = Fraction(eighths, 8 * 3600)
    truth = (
        (bill.gpu, price.gpu_hour.micros * hours),
        (bill.disk, price.disk_gb_month.micros * disk * hours / 720),
        (bill.traffic_in, price.in_gb.micros * Fraction(bytes_in, 10**9)),
        (bill.traffic_out, price.out_gb.micros * Fraction(bytes_out, 10**9)),
    )
    assert all(0 <= part.micros - exact < 1 for part, exact in truth)


def test_an_hour_of_everything() -> None:
    """By hand: $0.36 of GPU, 20 GB for 1/720 of a month, 4 GB in, 1 GB out."""
    bill = cost(PRICE, 20, 3600, 4 * 10**9, bytes_out=10**9)
    assert (bill.gpu, bill.disk) == (Usd.parse("0.36"), Usd(4167))
    assert (bill.traffic_in, bill.traffic_out) == (Usd.parse("0.04"), Usd.parse("0.02"))


@given(offers, workloads())
def test_a_free_machine_costs_nothing(offer: Offer, job: Workload) -> None:
    """A machine of one's own is quoted at zero in every estimate."""
    offer = replace(free(offer), vram_mb=10**6, ram_mb=None, max_duration_s=None)
    (row,) = make_quote(job, Need(disk_gb=5), [offer]).rows
    assert row.low.total == row.mid.total == row.high.total == row.expected == row.asks == ZERO


@given(prices, workloads(), seconds)
def test_the_traffic_reserve_covers_a_session(price: Price, job: Workload, time: float) -> None:
    """What is reserved for traffic is never less than what a session is expected to move."""
    bill = session_cost(price, 20, time, job)
    assert bill.traffic_in + bill.traffic_out <= traffic(price, job)


def test_the_reserve_counts_everything_that_is_fetched_twice() -> None:
    """What comes from here may be sent twice, what goes home fetched twice; packages are half a gigabyte."""
    price = Price(ZERO, ZERO, Usd(1000), Usd(1000))
    job = replace(JOB, upload_bytes=10**9, base_download_bytes=10**9, checkpoint_bytes=10**9, grid=None)
    assert traffic(price, job) == Usd(5500)
