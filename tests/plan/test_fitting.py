"""Which machines a job and its image can use, by what the services tell of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.plan.world import JOB, OFFER

from gpurent.model import Need, Offer, Price, capabilities_of, lies_in
from gpurent.money import Usd
from gpurent.plan.quote import make_quote
from gpurent.settings import DEFAULT_IMAGE, NeedSection

NEED = NeedSection().as_need()


def reason(offer: Offer, need: Need = NEED) -> str:
    """Why an offer is left out; empty where it is not."""
    quote = make_quote(JOB, need, [offer])
    return "" if quote.rows else quote.rejected[0].reason


@pytest.mark.parametrize("gpu", ["Tesla P100", "P40", "Titan Xp", "GTX 1080 Ti", "Tesla K80"])
def test_cards_without_kernels_are_left_out_however_cheap(gpu: str) -> None:
    """By their name, where a service does not tell the compute capability."""
    cheap = replace(OFFER, id="old", gpu=gpu, price=Price(Usd.parse("0.01")))
    quote = make_quote(JOB, NEED, [cheap, OFFER])
    assert [row.offer.id for row in quote.rows] == [OFFER.id]
    assert "compute capability" in quote.rejected[0].reason


def test_what_a_service_tells_goes_before_the_name() -> None:
    """A card that is called otherwise than it is."""
    assert "6.1" in reason(replace(OFFER, capability=(6, 1)))
    assert reason(replace(OFFER, gpu="P40", capability=(8, 6))) == ""


def test_a_card_that_nobody_knows_comes_last_not_first() -> None:
    """Its speed is a guess, and a guess must not win; what is free is not a guess."""
    strange = replace(OFFER, id="2", gpu="Grace Card 9", price=Price(Usd.parse("0.01")))
    assert [row.offer.id for row in make_quote(JOB, NEED, [strange, OFFER]).rows] == ["1", "2"]
    own = replace(strange, price=Price(Usd(0)))
    assert [row.offer.id for row in make_quote(JOB, NEED, [own, OFFER]).rows] == ["2", "1"]


@pytest.mark.parametrize(
    ("change", "need", "said"),
    [
        ({"ram_mb": 2000}, {}, "2.0 GB of main memory"),
        ({"ram_mb": 32_000}, {"min_ram_mb": 64_000}, "62.5 needed"),
        ({"down_mbps": 25.0}, {"min_down_mbps": 100.0}, "receives 25 Mbit/s, 100 wanted"),
        ({"up_mbps": 4.0}, {}, "sends 4 Mbit/s"),
        ({"region": "CN"}, {"regions": ("EU",)}, "in CN, not in EU"),
        ({"region": ""}, {"regions": ("DE",)}, "an unknown place"),
        ({"cuda": (12, 2)}, {}, "its driver runs CUDA 12.2"),
        ({"ram_mb": 32_000, "cpus": 4.0, "region": "SE", "cuda": (12, 8), "capability": (8, 9)},
         {"regions": ("EU",)}, ""),
    ],
)  # fmt: skip
def test_an_offer_is_left_out_for_what_it_lacks(change: dict[str, object], need: dict[str, object], said: str) -> None:
    """Main memory, line, place and driver: named with what it has and what is needed."""
    found = reason(replace(OFFER, **change), replace(NEED, **need))  # type: ignore[arg-type]
    assert (said in found) if said else found == ""


@pytest.mark.parametrize(
    ("image", "lowest", "highest"),
    [
        (DEFAULT_IMAGE, (7, 0), (99, 0)),
        ("pytorch/pytorch:2.9.1-cuda13.0-cudnn9-runtime", (7, 5), (99, 0)),
        ("pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime", (5, 0), (9, 0)),
        ("me/engine:latest", (5, 0), (99, 0)),
    ],
)
def test_an_images_cuda_says_which_cards_it_has_kernels_for(
    image: str, lowest: tuple[int, int], highest: tuple[int, int]
) -> None:
    """12.8 dropped Pascal and added Blackwell; 13.0 dropped Volta."""
    assert capabilities_of(image) == (lowest, highest)


@pytest.mark.parametrize(
    ("region", "wanted", "there"),
    [
        ("EU-SE-1", "EU", True), ("EU-SE-1", "SE", True), ("EU-SE-1", "eu-se", True), ("SE", "EU", True),
        ("US-GA-2", "US", True), ("US-GA-2", "GA", True), ("US", "EU", False), ("DE", "D", False), ("", "EU", False),
        ("DE", "", False), ("EU-SE-1", "SE-EU", False),
    ],
)  # fmt: skip
def test_a_region_is_a_country_or_a_part_of_the_world(region: str, wanted: str, there: bool) -> None:
    """Whichever way a service spells it."""
    assert lies_in(region, wanted) is there
