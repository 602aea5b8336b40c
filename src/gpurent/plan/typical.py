"""A job described by a picture count alone, and prices for when no market can be asked."""

from __future__ import annotations

import tomllib
from importlib.resources import files

from gpurent.model import Offer, Price, Workload
from gpurent.money import Usd

REPEATS, EPOCHS, BATCH, DIM = 10, 10, 2, 32
"""The guide's configuration: ten repeats, ten epochs, batch 2, rank 32."""
BASE_BYTES = {"sd15": 4_270_000_000, "sdxl": 6_940_000_000}
BYTES_PER_RANK = {"sd15": 1_180_000, "sdxl": 7_130_000}
SIDE = {"sd15": 512, "sdxl": 1024}
IMAGE_BYTES = 1_500_000


def workload(images: int, family: str = "sd15") -> Workload:
    """A typical LoRA job of ``images`` pictures."""
    steps = -(-images * REPEATS // BATCH) * EPOCHS
    saved = EPOCHS // 2
    return Workload(
        name=f"{images} images", family=family, images=images, steps=steps, epochs=EPOCHS, batch_size=BATCH,
        width=SIDE[family], height=SIDE[family], network_dim=DIM, train_text_encoder=True,
        gradient_checkpointing=family == "sdxl", checkpoints=saved,
        checkpoint_bytes=saved * DIM * BYTES_PER_RANK[family], upload_bytes=images * IMAGE_BYTES,
        base_download_bytes=BASE_BYTES[family],
    )  # fmt: skip


def table() -> tuple[str, tuple[Offer, ...]]:
    """The dated price table: its date and an offer a row. These cannot be rented."""
    document = tomllib.loads((files("gpurent.plan") / "prices.toml").read_text(encoding="utf-8"))
    offers = tuple(
        Offer(
            provider=row["provider"], id=f"table-{number}", gpu=row["gpu"], vram_mb=row["vram_gb"] * 1024,
            price=Price(
                Usd.parse(row["gpu_hour"]), Usd.parse(row["disk_gb_month"]), Usd.parse(row["in_gb"]), Usd.parse(row["out_gb"]),
            ),
            down_mbps=row["mbps"], up_mbps=row["mbps"], reliability=float(row["reliability"]), trusted=row["trusted"],
            region="typical",
        )
        for number, row in enumerate(document["price"])
    )  # fmt: skip
    return document["date"], offers
