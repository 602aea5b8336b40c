"""Typical prices with a date, for when no market can be asked. Nothing in here can be rented."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from gpurent.model import Offer, Price
from gpurent.money import Usd
from gpurent.plan.gpus import find


@dataclass(frozen=True, slots=True)
class PriceTable:
    """``dated`` is when the newest row was seen; each offer's ``region`` says when its own was."""

    dated: str
    offers: tuple[Offer, ...]


@cache
def price_table() -> PriceTable:
    """Read the table that ships with the package."""
    text = (files("gpurent.plan") / "prices.toml").read_text(encoding="utf-8")
    document = tomllib.loads(text)
    offers = tuple(
        _offer(number, {**document["provider"][row["provider"]], **row})
        for number, row in enumerate(document["price"], start=1)
    )
    return PriceTable(document["dated"], offers)


def _offer(number: int, row: dict[str, str]) -> Offer:
    gpu = find(row["gpu"])
    gigabytes = int(row["vram_gb"]) if "vram_gb" in row else gpu.vram_gb if gpu else 0
    return Offer(
        provider=row["provider"], id=f"table-{number}", gpu=row["gpu"], vram_mb=gigabytes * 1024,
        price=Price(*(Usd.parse(row[part]) for part in ("gpu_hour", "disk_gb_month", "in_gb", "out_gb"))),
        disk_gb=200, down_mbps=float(row["mbps"]), up_mbps=float(row["mbps"]), reliability=float(row["reliability"]),
        trusted=bool(row.get("trusted", False)), region=f"seen {row['seen']}",
    )  # fmt: skip
