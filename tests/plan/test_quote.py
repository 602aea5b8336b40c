"""A quote: who fits, in which order, why not the others, and what budget would do."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plan.world import JOB, OFFER, PRICE, amounts, needs, offers, workloads

from gpurent.errors import NoOffer
from gpurent.model import Need, Offer, Price, Workload
from gpurent.money import ZERO, Usd
from gpurent.plan.gpus import find
from gpurent.plan.pricetable import price_table
from gpurent.plan.quote import affordable_rows, make_quote, require_offer
from gpurent.plan.rank import expected_cost
from gpurent.plan.typical import typical_workload

several = st.lists(offers, max_size=8, unique_by=lambda offer: offer.id)


@given(workloads(), needs, several)
def test_every_offer_is_either_quoted_or_rejected_with_a_reason(job: Workload, need: Need, market: list[Offer]) -> None:
    """None vanishes, none is in both, and quoted rows meet every constraint and the memory of the job."""
    quote = make_quote(job, need, market)
    quoted, refused = [row.offer for row in quote.rows], [one.offer for one in quote.rejected]
    assert sorted(offer.id for offer in (*quoted, *refused)) == sorted(offer.id for offer in market)
    assert all(quote.need.accepts(offer) for offer in quoted)
    assert all(one.reason for one in quote.rejected)
    assert quote.need.min_vram_mb > 0


@given(workloads(), several, st.randoms(use_true_random=False))
def test_order_does_not_depend_on_who_answered_first(
    job: Workload, market: list[Offer], shuffler: random.Random
) -> None:
    """The same market in another order gives the same quote."""
    shuffled = list(market)
    shuffler.shuffle(shuffled)
    assert make_quote(job, Need(disk_gb=5), market) == make_quote(job, Need(disk_gb=5), shuffled)


@given(workloads(), several)
def test_rows_are_ranked_by_expected_cost_and_estimates_are_ordered(job: Workload, market: list[Offer]) -> None:
    """Cheapest to a finished LoRA first, after that cards that nobody knows; low, middle and high never cross."""
    rows = make_quote(job, Need(disk_gb=5), market).rows
    unknown = [find(row.offer.gpu) is None and row.offer.price.gpu_hour > ZERO for row in rows]
    assert unknown == sorted(unknown)
    known = [row for row, none in zip(rows, unknown, strict=True) if not none]
    assert known == sorted(known, key=lambda row: row.expected)
    for row in rows:
        assert ZERO <= row.low.total <= row.mid.total <= row.high.total <= row.asks
        assert row.mid.total <= row.expected
        assert row.hourly == row.offer.price.hourly(5)


@given(workloads(), several, amounts)
def test_a_budget_that_is_called_enough_is_enough(job: Workload, market: list[Offer], budget: Usd) -> None:
    """``enough`` succeeds, a cent less fails, and it is never less than what was refused."""
    quote = make_quote(job, Need(disk_gb=5), market)
    try:
        best = require_offer(quote, budget)
    except NoOffer as error:
        if not quote.rows:
            assert error.enough is None
            return
        assert error.enough is not None
        assert error.enough % 10_000 == 0
        assert error.enough > budget.micros
        assert f"--budget {Decimal(error.enough) / 10**6:.2f}" in error.hint
        assert require_offer(quote, Usd(error.enough)).asks == Usd(error.enough)
        with pytest.raises(NoOffer):
            require_offer(quote, Usd(error.enough - 10_000))
    else:
        assert best.high.total <= budget
        assert best in affordable_rows(quote, budget)


def test_too_small_a_budget_says_what_would_do() -> None:
    """The message names the cheapest machine, its rate, and the budget that is enough."""
    quote = make_quote(JOB, Need(), [OFFER])
    with pytest.raises(NoOffer) as caught:
        require_offer(quote, Usd.parse("0.01"))
    enough = quote.rows[0].asks
    assert caught.value.enough == enough.micros
    assert str(caught.value) == (
        "$0.01 is too little: the cheapest fitting offer (RTX 4090 on cloud, $0.365/h) may take up to "
        f"{enough.rounded()}."
    )
    assert caught.value.hint == f"--budget {enough.decimal():.2f} would do. Fewer epochs cost less."


@pytest.mark.parametrize(
    ("change", "need", "reason"),
    [
        ({"gpu": "RTX 3090"}, Need(gpus=("4090", "a100")), "not 4090 or a100"),
        ({"vram_mb": 4096}, Need(), "4.0 GB of GPU memory, 6.0 needed"),
        ({"disk_gb": 10}, Need(disk_gb=30), "10 GB of disk, 30 needed"),
        ({}, Need(max_hourly=Usd.parse("0.30")), "$0.364167/h with disk, above $0.30/h"),
        ({"reliability": 0.8}, Need(min_reliability=0.95), "reliability 80.0%, 95.0% wanted"),
        ({}, Need(trusted_only=True), "not in a data centre or secure cloud"),
        ({"max_duration_s": 600}, Need(), "available for at most 0.2 h, 0.6 h needed"),
        ({"price": Price(Usd(-1))}, Need(), "it names a negative price"),
        ({"price": Price(Usd(300_000), out_gb=Usd(-9))}, Need(), "it names a negative price"),
    ],
)
def test_a_rejected_offer_says_why(change: dict[str, object], need: Need, reason: str) -> None:
    """One sentence for each constraint, with both numbers."""
    quote = make_quote(JOB, need, [replace(OFFER, **change)])  # type: ignore[arg-type]
    assert [one.reason for one in quote.rejected] == [reason]
    with pytest.raises(NoOffer, match=r"No offer fits this job: .*: ") as caught:
        require_offer(quote, Usd.parse("10"))
    assert reason in str(caught.value)
    assert caught.value.enough is None


def test_an_empty_market_is_said_to_be_empty() -> None:
    """No reason is invented where nobody listed anything."""
    with pytest.raises(NoOffer, match="no provider lists anything"):
        require_offer(make_quote(JOB, Need(), []), Usd.parse("10"))


def test_an_unreliable_machine_must_be_much_cheaper_to_come_first() -> None:
    """The chance of doing everything again is part of the price."""
    shaky = replace(OFFER, id="shaky", reliability=0.7, price=replace(PRICE, gpu_hour=Usd.parse("0.34")))
    assert [row.offer.id for row in make_quote(JOB, Need(), [shaky, OFFER]).rows] == ["1", "shaky"]


def test_a_bid_must_be_cheaper_by_what_outbids_cost() -> None:
    """A long job on a machine that may be taken away: a few percent less is not a bargain, half the price is."""
    long = replace(JOB, steps=40_000)
    bid = replace(OFFER, id="bid", interruptible=True)
    for percent, first in ((97, "1"), (50, "bid")):
        cheaper = replace(bid, price=replace(PRICE, gpu_hour=PRICE.gpu_hour.scaled(percent, 100)))
        rows = make_quote(long, Need(interruptible=True), [cheaper, OFFER]).rows
        assert rows[0].offer.id == first
    assert rows[0].expected > rows[0].mid.total


@given(amounts, st.floats(0, 1), st.floats(0, 1))
def test_reliability_never_makes_a_lora_dearer(once: Usd, one: float, other: float) -> None:
    """Expected cost falls with reliability, from one and a half times at the worst to the cost itself."""
    worse, better = sorted((one, other))
    assert expected_cost(once, 1.0) == once
    assert once <= expected_cost(once, better) <= expected_cost(once, worse) <= once.scaled(3, 2)


def test_a_memory_of_ones_own_choice_is_respected_and_remarked_on() -> None:
    """An estimate can be overruled; the quote says what may happen then."""
    quote = make_quote(JOB, Need(min_vram_mb=4000), [replace(OFFER, vram_mb=4096)])
    assert len(quote.rows) == 1
    assert any("may run out of memory" in note for note in quote.notes)
    assert quote.rows[0].vram_need_mb > 4096


def test_a_quote_says_where_its_prices_come_from() -> None:
    """A table is marked as one, with its date; what happened while asking comes first."""
    table = make_quote(JOB, Need(), [OFFER], source="table", dated="2026-01-02", notes=["vastai: no key"])
    assert (table.source, table.dated, table.notes[0]) == ("table", "2026-01-02", "vastai: no key")
    assert make_quote(JOB, Need(), [OFFER], source="sandbox").source == "sandbox"
    live = make_quote(JOB, Need(), [OFFER])
    assert (live.source, live.dated) == ("live", None)


def test_a_budget_is_remarked_on_but_hides_no_row() -> None:
    """Rows that may cost more stay in sight."""
    dear = replace(OFFER, id="2", price=Price(Usd.parse("99")))
    quote = make_quote(JOB, Need(), [OFFER, dear], Usd.parse("5"))
    assert len(quote.rows) == 2
    assert "1 of 2 offers may cost more than $5.00." in quote.notes


def test_the_price_table_answers_without_a_market() -> None:
    """Every row is priced, dated and quotable; a typical job has an answer for both families."""
    table = price_table()
    assert table.dated.startswith("20")
    assert all(offer.price.gpu_hour > ZERO and offer.vram_mb >= 16_000 for offer in table.offers)
    assert all(offer.region.startswith("seen ") for offer in table.offers)
    for family in ("sd15", "sdxl"):
        quote = make_quote(typical_workload(50, family), Need(), table.offers, source="table", dated=table.dated)
        assert len(quote.rows) >= 10
    only = make_quote(JOB, Need(gpus=("4090",)), table.offers)
    assert {row.offer.gpu for row in only.rows} == {"RTX 4090"}
    assert {row.offer.provider for row in only.rows} == {"vastai", "runpod"}
