"""What all runs cost, grouped; and what providers billed that no run of this ledger explains. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from gpurent.budget.reaper import TAG_PREFIX
from gpurent.budget.spend import accrued, estimated
from gpurent.budget.state import Rental, Run
from gpurent.money import ZERO, Usd
from gpurent.spi import Billed

By = Literal["month", "provider", "gpu", "job"]
BY: tuple[By, ...] = ("month", "provider", "gpu", "job")


@dataclass(frozen=True, slots=True)
class CostLine:
    """One group. ``cost`` is what counts: the final bill where there is one, else the larger of bill and estimate."""

    key: str
    rentals: int
    failed: int
    """Rentals on which nothing was trained."""
    estimate: Usd
    """By price, time and traffic."""
    billed: Usd
    """By providers, in final bills."""
    unbilled: int
    """Rentals whose final bill is not known."""
    cost: Usd
    play: bool = False
    """Of play money; such runs are never in a group with others."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A charge that nothing in this ledger explains: an orphan, or a machine that was rented by hand."""

    provider: str
    bill: Billed

    @property
    def ours(self) -> bool:
        """Whether it carries our tag."""
        return self.bill.tag.startswith(TAG_PREFIX)


def costs(runs: Iterable[Run], by: By, now: float) -> tuple[CostLine, ...]:
    """Every rental of every run, grouped and in order of the group's name."""
    groups: dict[tuple[bool, str], list[Rental]] = {}
    for run in runs:
        for rental in run.rentals:
            groups.setdefault((run.play, _key(run, rental, by)), []).append(rental)
    return tuple(_line(key, play, groups[play, key], now) for play, key in sorted(groups))


def _key(run: Run, rental: Rental, by: By) -> str:
    keys: Mapping[By, Callable[[], str]] = {
        "month": lambda: datetime.fromtimestamp(rental.intent_at, UTC).strftime("%Y-%m"),
        "provider": lambda: rental.provider,
        "gpu": lambda: rental.offer.gpu,
        "job": lambda: run.name,
    }
    return keys[by]()


def _line(key: str, play: bool, rentals: Sequence[Rental], now: float) -> CostLine:
    final = [rental for rental in rentals if rental.charged is not None and rental.charged.final]
    real = [rental for rental in rentals if estimated(rental, now).total > ZERO]
    return CostLine(
        key=key,
        rentals=len(rentals),
        failed=sum(rental.state.over and rental.job_id is None for rental in rentals),
        estimate=Usd.total([estimated(rental, now).total for rental in rentals]),
        billed=Usd.total([rental.charged.total for rental in final if rental.charged is not None]),
        unbilled=sum(rental not in final for rental in real),
        cost=Usd.total([accrued(rental, now) for rental in rentals]),
        play=play,
    )


def unknown(runs: Iterable[Run], statements: Mapping[str, Sequence[Billed]]) -> tuple[Unknown, ...]:
    """Charges by provider for which there is no rental, ours first and the dearest before others."""
    known = {(rental.provider, rental.ref) for run in runs for rental in run.rentals}
    tags = {rental.tag for run in runs for rental in run.rentals}
    found = [
        Unknown(provider, bill)
        for provider, bills in statements.items()
        for bill in bills
        if (provider, bill.ref) not in known and bill.tag not in tags and bill.total > ZERO
    ]
    return tuple(sorted(found, key=lambda one: (not one.ours, -one.bill.total.micros, one.bill.ref)))


def unsettled(runs: Iterable[Run]) -> tuple[Rental, ...]:
    """Rentals that are over and whose final bill the provider has not told yet."""
    return tuple(
        rental for run in runs for rental in run.rentals
        if rental.state.over and rental.ref is not None and (rental.charged is None or not rental.charged.final)
    )  # fmt: skip
