"""Offers, needs and workloads for the tests of planning."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from gpurent.model import Need, Offer, Price, Workload
from gpurent.money import ZERO, Usd
from gpurent.plan.typical import typical_workload

JOB = typical_workload(50)
PRICE = Price(Usd.parse("0.36"), Usd.parse("0.15"), Usd.parse("0.01"), Usd.parse("0.02"))
OFFER = Offer("cloud", "1", "RTX 4090", 24564, PRICE, down_mbps=600, up_mbps=600, reliability=0.99)
GPUS = ("RTX 3060", "RTX 3090", "RTX 4090", "A100 SXM4", "NVIDIA H100 80GB HBM3", "Grace Card 9")

amounts = st.integers(0, 50_000_000).map(Usd)
prices = st.builds(Price, amounts, amounts, amounts, amounts)
offers = st.builds(
    Offer,
    provider=st.sampled_from(("cloud", "other")),
    id=st.uuids().map(str),
    gpu=st.sampled_from(GPUS),
    vram_mb=st.sampled_from((8188, 12282, 24564, 40960, 81559)),
    price=prices,
    gpu_count=st.integers(1, 4),
    disk_gb=st.integers(5, 500),
    down_mbps=st.floats(0, 10_000),
    up_mbps=st.floats(0, 10_000),
    reliability=st.floats(0, 1),
    trusted=st.booleans(),
    max_duration_s=st.none() | st.integers(60, 10**7),
    boot_s=st.none() | st.floats(1, 900),
    capability=st.none() | st.sampled_from(((6, 1), (7, 0), (8, 6), (12, 0))),
    ram_mb=st.none() | st.integers(1000, 256_000),
    region=st.sampled_from(("", "DE", "EU-SE-1", "US-GA-2")),
)
needs = st.builds(
    Need,
    gpus=st.sampled_from(((), ("4090",), ("4090", "a100"))),
    min_vram_mb=st.sampled_from((0, 8000, 22_560)),
    disk_gb=st.integers(5, 100),
    max_hourly=st.none() | amounts,
    min_reliability=st.sampled_from((0.0, 0.9)),
    trusted_only=st.booleans(),
    capabilities=st.sampled_from(((0, 0), (7, 0))).map(lambda least: (least, (99, 0))),
    min_ram_mb=st.sampled_from((0, 16_000)),
    min_down_mbps=st.sampled_from((0.0, 100.0)),
    min_up_mbps=st.sampled_from((0.0, 100.0)),
    regions=st.sampled_from(((), ("EU",), ("DE", "US"))),
)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    family = draw(st.sampled_from(("sd15", "sdxl")))
    job = typical_workload(
        draw(st.integers(1, 300)), family, epochs=draw(st.integers(1, 30)), batch_size=draw(st.integers(1, 16)),
        network_dim=draw(st.integers(1, 128)),
    )  # fmt: skip
    return replace(
        job, gradient_checkpointing=draw(st.booleans()), train_text_encoder=draw(st.booleans()),
        half_precision=draw(st.booleans()), width=draw(st.sampled_from((64, 512, 768, 1024, 1536))),
    )  # fmt: skip


def free(offer: Offer) -> Offer:
    return replace(offer, price=Price(ZERO))
