"""Ledgers, offers and rentals for the tests of money."""

from __future__ import annotations

from pathlib import Path

from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import ManualClock
from gpurent.model import Instance, Offer, Phase, Price
from gpurent.money import Usd

PRICE = Price(Usd.parse("0.40"), Usd.parse("0.10"), Usd.parse("0.01"), Usd.parse("0.02"))
OFFER = Offer("cloud", "offer-1", "RTX 4090", 24_000, PRICE)


def opened(folder: Path, clock: ManualClock, budget: str = "10") -> tuple[Ledger, str]:
    """A ledger with one open run."""
    ledger = Ledger.open(folder / "ledger.sqlite3", clock)
    return ledger, ledger.open_run("cat", Usd.parse(budget), output_dir=folder, config={})


def intend(ledger: Ledger, run_id: str, now: float, n: int = 1, hours: float = 24.0) -> str:
    """Announce a rental and return its tag."""
    tag = f"gpurent-{run_id}-{n}"
    ledger.append(
        run_id, Kind.INTENT, tag=tag, provider="cloud", offer=OFFER, price=PRICE, disk_gb=20,
        hourly_micros=PRICE.hourly(20).micros, reserved_micros=0,
        soft_deadline=now + hours * 3600 - 60, hard_deadline=now + hours * 3600,
    )  # fmt: skip
    return tag


def listed(tag: str, ref: str = "i-1") -> Instance:
    """The instance as its provider lists it."""
    return Instance("cloud", ref, tag, Phase.RUNNING, PRICE)
