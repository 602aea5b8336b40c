"""Ledgers, offers and rentals for the tests of money."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import Clock, ManualClock
from gpurent.model import Instance, Offer, Phase, Price
from gpurent.money import Usd

PRICE = Price(Usd.parse("0.40"), Usd.parse("0.10"), Usd.parse("0.01"), Usd.parse("0.02"))
OFFER = Offer("cloud", "offer-1", "RTX 4090", 24_000, PRICE)


@dataclass(frozen=True)
class Place:
    """Where one ledger lies, and a folder. What is opened through it is closed with the test."""

    url: str
    folder: Path
    fresh: Callable[[], str]
    closing: ExitStack

    def open(self, clock: Clock) -> Ledger:
        """The ledger, made at first."""
        ledger = Ledger.open_url(self.url, clock)
        self.closing.callback(ledger.close)
        return ledger

    def another(self) -> Place:
        """A second, empty database of the same kind."""
        return replace(self, url=self.fresh())

    def raw(self) -> sa.Engine:
        """The database as another program sees it; every statement is a transaction."""
        return sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def execute(self, statement: str) -> None:
        """One statement of that other program."""
        with self.raw().connect() as connection:
            connection.exec_driver_sql(statement)


def opened(place: Place, clock: ManualClock, budget: str = "10") -> tuple[Ledger, str]:
    """A ledger with one open run."""
    ledger = place.open(clock)
    return ledger, ledger.open_run("cat", Usd.parse(budget), output_dir=place.folder, config={})


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
