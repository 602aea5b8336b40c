"""``gpurent costs``."""

from __future__ import annotations

from dataclasses import fields

from rich.table import Table

from gpurent.cli import output
from gpurent.cli.common import open_broker
from gpurent.money import Usd
from gpurent.report.costs import By, CostLine, Unknown


def run(by: By, *, offline: bool, as_json: bool) -> int:
    """Show what all runs cost; ask providers for bills that are missing, and for charges that nothing explains."""
    with open_broker() as broker:
        notes: list[str] = []
        if not offline:
            broker.settle(tell=lambda event: notes.append(getattr(event, "message", "")))
        lines = broker.costs(by)
        strange = (
            () if offline else broker.unknown_charges(tell=lambda event: notes.append(getattr(event, "message", "")))
        )
        if as_json:
            output.print_json(
                {"by": by, "lines": [_dict(one) for one in lines], "unknown": [_told(one) for one in strange]}
            )
        else:
            _print(by, lines)
            for note in dict.fromkeys(note for note in notes if note):
                output.notes.print(note)
        for one in strange:
            if one.ours or not as_json:
                _warn(one)
    return 5 if any(one.ours for one in strange) else 0


def _warn(one: Unknown) -> None:
    what = (
        "with our tag: possibly an orphan; `gpurent reap --all-accounts` ends it if it lives"
        if one.ours
        else "without our tag: rented by hand?"
    )
    output.notes.print(
        f"{one.provider} billed {one.bill.total.rounded(4)} for {one.bill.ref} {one.bill.tag}".rstrip()
        + f", which is not in this ledger, {what}.", style="yellow" if one.ours else None,
    )  # fmt: skip


def _print(by: By, lines: tuple[CostLine, ...]) -> None:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in (by, "rentals", "failed", "our estimate", "provider billed", "cost"):
        table.add_column(heading, justify="left" if heading == by else "right", no_wrap=True)
    for play in sorted({one.play for one in lines}) or [False]:
        alike = [one for one in lines if one.play is play]
        if play:
            table.add_row("PLAY MONEY")
        for one in alike:
            billed = one.billed.rounded(4) + (f" ({one.unbilled} not yet)" if one.unbilled else "")
            counts = (str(one.rentals), str(one.failed))
            table.add_row(one.key, *counts, one.estimate.rounded(4), billed, _cost(one.cost, one.unbilled))
        total, open_bills = Usd.total([one.cost for one in alike]), sum(one.unbilled for one in alike)
        rentals = str(sum(one.rentals for one in alike))
        table.add_row("total", rentals, *[""] * 3, _cost(total, open_bills), style="bold")
    output.console.print(table)


def _cost(amount: Usd, unbilled: int) -> str:
    return amount.rounded(4) + (" estimated" if unbilled else "")


def _dict(line: CostLine) -> dict[str, object]:
    values = {one.name: getattr(line, one.name) for one in fields(line)} | {"estimated": line.unbilled > 0}
    return {
        f"{name}_micros" if isinstance(value, Usd) else name: value.micros if isinstance(value, Usd) else value
        for name, value in values.items()
    }


def _told(one: Unknown) -> dict[str, object]:
    return {
        "provider": one.provider, "ref": one.bill.ref, "tag": one.bill.tag, "total_micros": one.bill.total.micros,
        "ours": one.ours,
    }  # fmt: skip
