"""A market that shows 64 offers at a time is searched without losing any that fits, or the search says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.vast.samples import row

from gpurent.model import Need, Offer
from gpurent.money import Usd
from gpurent_providers.vastai import search, wire


def market(count: int, gpus: int, step: float) -> list[dict[str, Any]]:
    """Offers in order of price, ``step`` apart, of so many kinds in turn."""
    return [
        row(id=1000 + number, gpu_name=f"GPU {number % gpus}", dph_total=round(0.1 + step * number, 6))
        for number in range(count)
    ]


class Service:
    """What Vast.ai does with a search, for the filters that paging uses and it does not ``ignore``."""

    def __init__(self, rows: list[dict[str, Any]], ignore: Collection[str] = (), digits: int = 9) -> None:
        self.rows = sorted(rows, key=lambda one: float(one["dph_total"]))
        self.ignore = ignore
        self.digits = digits
        self.asked: list[dict[str, Any]] = []

    def __call__(self, body: Any) -> object:
        self.asked.append(body)
        heard = {name: value for name, value in body.items() if name not in self.ignore}
        price, left_out = heard.get("dph_total", {}), heard.get("ask_contract_id", {}).get("notin", [])
        names = heard.get("gpu_name", {})
        least, most = round(price.get("gte", 0.0), self.digits), price.get("lte", 9.0)
        found = [
            one
            for one in self.rows
            if least <= round(one["dph_total"], self.digits)
            and one["dph_total"] <= most
            and one["id"] not in left_out
            and one["gpu_name"] not in names.get("notin", [])
            and one["gpu_name"] in names.get("in", [one["gpu_name"]])
        ]
        return {"offers": found[: search.CAP]}


def look(service: Service, need: Need = Need(min_cuda=(12, 8))) -> search.Progress:  # noqa: B008  (frozen)
    """A search as the adapter makes it."""

    def read(one: search.Row) -> Offer | None:
        found = wire.offer(one)
        return found if found is not None and need.accepts(found) else None

    return search.everything(search.filters(need, bid=False, unverified=False), service, read)


@given(
    count=st.sampled_from([0, 1, 63, 64, 65, 128, 200, 255]),
    gpus=st.integers(1, 5),
    step=st.sampled_from([0.0, 1e-7, 0.001]),
)
def test_the_cap_of_a_search_loses_nothing(count: int, gpus: int, step: float) -> None:
    """64 rows at a time, however many offers share a price: every one of 255 is found, and none twice."""
    service = Service(market(count, gpus, step))
    found = look(service, Need(max_hourly=Usd.parse("5")))
    assert sorted(one.id for one in found.offers) == sorted(str(one["id"]) for one in service.rows)
    assert all(asked["dph_total"]["lte"] == 5.0 for asked in service.asked) and not found.partial


def test_in_a_large_market_the_cheapest_of_every_kind_are_found() -> None:
    """After four searches, kinds of which 64 are known are left out: a dear kind is found among two thousand offers."""
    rows = [*market(2000, 6, 0.001), row(id=9, gpu_name="Rare", dph_total=8.0)]
    service = Service(rows)
    found = look(service)
    kinds = Counter(one.gpu for one in found.offers)
    assert all(count >= search.CAP for kind, count in kinds.items() if kind != "Rare") and kinds["Rare"] == 1
    assert len(service.asked) <= search.MAX_PAGES and not found.partial


def test_kinds_that_are_asked_for_by_name_are_enough() -> None:
    """Once a page's worth of each is known, nothing more is asked."""
    service = Service(market(2000, 2, 0.001))
    wanted = {**search.filters(Need(), bid=False, unverified=False), "gpu_name": {"in": ["GPU 1"]}}
    found = search.everything(wanted, service, wire.offer)
    assert len(service.asked) == search.FREE_PAGES and not found.partial
    assert {one.gpu for one in found.offers} == {"GPU 1"}


def test_rows_that_do_not_fit_hide_none_that_do() -> None:
    """Three hundred machines with an old driver stand before fifty, dearer, that can be used."""
    old = [row(id=1000 + n, gpu_name="RTX 3090", cuda_max_good=12.0, dph_total=0.1 + n / 1e4) for n in range(300)]
    new = [row(id=5000 + n, gpu_name="RTX 3090", cuda_max_good=12.8, dph_total=0.2 + n / 1e4) for n in range(50)]
    found = look(Service([*old, *new]))
    assert len(found.offers) == 50 and not found.partial


@pytest.mark.parametrize("digits", [9, 6, 4, 3])
def test_a_page_that_repeats_is_stepped_over(digits: int) -> None:
    """A service that ignores numbers left out, at any precision: what is dearer is found, and the doubt is told."""
    same = [row(id=1000 + number, dph_total=0.2) for number in range(100)]
    rest = [row(id=3000 + number, gpu_name="RTX 5090", dph_total=0.3 + number / 100) for number in range(20)]
    found = look(Service([*same, *rest], ignore={"ask_contract_id"}, digits=digits))
    assert {str(one["id"]) for one in rest} < {one.id for one in found.offers}
    assert len(found.offers) == search.CAP + 20 and found.partial


def test_a_search_that_ignores_everything_ends_and_says_so() -> None:
    """The same page again and again is not a market of 64."""
    service = Service(market(100, 2, 0.001), ignore={"ask_contract_id", "dph_total", "gpu_name"})
    found = look(service)
    assert found.partial and len(found.offers) == search.CAP and len(service.asked) <= search.MAX_PAGES


def test_a_market_without_an_end_is_told_as_one() -> None:
    """Nothing fits of what twelve searches showed: that is not the same as nothing fits."""
    service = Service([{**one, "cuda_max_good": 12.0} for one in market(2000, 1, 0.001)])
    found = look(service)
    assert found.offers == () and found.partial and len(service.asked) == search.MAX_PAGES


@st.composite
def markets(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Runs of offers of one kind: so many, so far apart, some of which cannot be used."""
    rows: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 6))):
        kind, start = f"GPU {draw(st.integers(0, 3))}", draw(st.sampled_from([0.1, 0.2, 0.5]))
        step, cuda = draw(st.sampled_from([0.0, 1e-7, 1e-6, 0.001])), draw(st.sampled_from([12.0, 12.8, 12.9]))
        changes: list[dict[str, Any]] = [{}, {}, {"inet_down": 5.0}, {"disk_space": 4.0}, {"num_gpus": 2}]
        change = draw(st.sampled_from(changes))
        rows += [
            row(id=1000 + len(rows) + number, gpu_name=kind, dph_total=start + step * number, cuda_max_good=cuda)
            | change
            for number in range(draw(st.sampled_from([1, 10, 64, 65, 200])))
        ]
    return rows


@given(rows=markets(), deaf=st.booleans())
@settings(deadline=None)
def test_every_offer_that_fits_is_found_up_to_the_cap_of_its_kind(rows: list[dict[str, Any]], deaf: bool) -> None:
    """What is missing is dearer than 64 of its kind, or the search says that it ended early."""
    service = Service(rows, ignore={"ask_contract_id"} if deaf else ())
    need = Need(min_cuda=(12, 8))
    found = look(service, need)
    numbers = [one.id for one in found.offers]
    assert len(numbers) == len(set(numbers)) and len(service.asked) <= search.MAX_PAGES
    price = {str(one["id"]): one["dph_total"] for one in rows}
    for one in service.rows:
        offer = wire.offer(one)
        if found.partial or offer is None or not need.accepts(offer) or offer.id in numbers:
            continue
        kin = sorted(price[other.id] for other in found.offers if other.gpu == offer.gpu)
        assert len(kin) >= search.CAP and kin[search.CAP - 1] <= price[offer.id] + 4 * search.SAME


def test_a_search_asks_for_what_the_need_says() -> None:
    """Memory, disk, reliability, price and data centre; CUDA is left to us."""
    need = Need((), 20_000, 40, Usd.parse("0.5"), 0.97, trusted_only=True, min_cuda=(12, 8))
    body = search.filters(need, bid=False, unverified=False)
    assert body["gpu_ram"] == {"gte": 20_000} and body["disk_space"] == {"gte": 40}
    assert body["reliability2"] == {"gte": 0.97} and body["dph_total"] == {"lte": 0.5}
    assert body["datacenter"] == {"eq": True} and body["allocated_storage"] == 40
    assert body["inet_down"] == body["inet_up"] == {"gte": search.MIN_MBPS}
    assert "cuda_max_good" not in body
    assert "verified" not in search.filters(need, bid=True, unverified=True)
