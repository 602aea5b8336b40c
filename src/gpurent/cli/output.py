"""Tables, JSON and words for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.table import Table

from gpurent.broker import RunView, Trained
from gpurent.cli import consoles
from gpurent.money import Usd
from gpurent.plan.quote import Quote, QuoteRow
from gpurent.plan.ranges import Range
from gpurent.report.receipt import Receipt
from gpurent.report.session import is_session, session_status
from gpurent.words import counted

console = consoles.make()
notes = consoles.make(stderr=True)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=2, default=str))


def print_json_line(event: str, record: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own, at once."""
    print(json.dumps({"event": event, **record}, default=str), flush=True)


def duration(seconds: float) -> str:
    """``75`` → ``1m15``, ``5400`` → ``1h30``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f}" if seconds >= 60 else f"{seconds / 60:.1f}"


def print_quote(quote: Quote, limit: int) -> None:
    """The ranked table with its notes."""
    work = quote.workload
    images = counted(work.images, "image")
    what = images if work.name == images else f"{work.name}: {images}"
    console.print(
        f"{what}, {counted(work.steps, 'step')} of {work.batch_size} at {work.width}×{work.height}", style="italic"
    )
    if quote.source == "table":
        console.print(f"TYPICAL PRICES of {quote.dated}; nothing here can be rented", style="italic")
    elif quote.source == "sandbox":
        console.print("PLAY MONEY on the local sandbox", style="italic")
    if quote.rows:
        console.print(_quote_table(quote.rows[:limit], quote.play))
    if len(quote.rows) > limit:
        console.print(f"… and {len(quote.rows) - limit} more (--limit)", style="dim")
    for note in quote.notes:
        console.print(note, style="dim")


def print_rejected(quote: Quote) -> None:
    """Why each offer that does not fit was left out, those with the same reason together."""
    if not quote.rejected:
        console.print("No offer was left out.", style="dim")
        return
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("provider", no_wrap=True)
    table.add_column("GPU", no_wrap=True)
    table.add_column("offers", justify="right", no_wrap=True)
    table.add_column("left out because")
    found = Counter((one.offer.provider, one.offer.gpu, one.reason) for one in quote.rejected)
    for (provider, gpu, reason), count in sorted(found.items()):
        table.add_row(provider, gpu, str(count), reason)
    console.print(table)


WIDE = 100
"""Columns of a terminal that has room for what traffic could cost at worst."""


def _quote_table(rows: Sequence[QuoteRow], play: Collection[str]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2 if console.width >= WIDE else 1, 0, 0))
    table.add_column("provider", no_wrap=True)
    table.add_column("GPU", no_wrap=True)
    wide = console.width >= WIDE
    for heading in ("memory", "per hour", "time", "all-in cost", *(("worst traffic",) if wide else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        offer, total = row.offer, row.timeline.total_s
        cells = [
            _payee(offer.provider, play),
            offer.gpu,
            f"{offer.vram_mb / 1024:.0f} GB",
            row.hourly.rounded(3),
            f"{_minutes(total.mid)} ({_minutes(total.low)}–{_minutes(total.high)}) min",
            f"{row.mid.total.rounded()} ({row.low.total.rounded()}–{row.high.total.rounded()})",
        ]
        traffic = f"+ {row.exposure.rounded()}" if row.exposure else "free"
        table.add_row(*cells, *([traffic] if wide else []))
    return table


def _payee(provider: str, play: Collection[str]) -> str:
    """Who is paid; the sandbox's own name says no more than what it is paid with."""
    if provider not in play:
        return provider
    return "PLAY MONEY" if provider == "sandbox" else f"{provider}: PLAY MONEY"


def quote_dict(quote: Quote, limit: int) -> dict[str, Any]:
    """JSON of a quote; amounts are micro-dollars, times seconds."""
    return {
        "source": quote.source,
        "dated": quote.dated,
        "notes": list(quote.notes),
        "workload": {"name": quote.workload.name, "images": quote.workload.images, "steps": quote.workload.steps},
        "offers": [{**_row_dict(row), "play_money": row.offer.provider in quote.play} for row in quote.rows[:limit]],
        "rejected": [
            {"provider": one.offer.provider, "id": one.offer.id, "gpu": one.offer.gpu, "reason": one.reason}
            for one in quote.rejected
        ],
    }


def _row_dict(row: QuoteRow) -> dict[str, Any]:
    def span(one: Range) -> list[float]:
        return [round(one.low, 1), round(one.mid, 1), round(one.high, 1)]

    return {
        "provider": row.offer.provider, "id": row.offer.id, "gpu": row.offer.gpu, "vram_mb": row.offer.vram_mb,
        "hourly_micros": row.hourly.micros, "reliability": row.offer.reliability,
        "total_s": span(row.timeline.total_s), "train_s": span(row.timeline.train_s),
        "cost_micros": [row.low.total.micros, row.mid.total.micros, row.high.total.micros],
        "budget_asked_micros": row.asks.micros, "traffic_exposure_micros": row.exposure.micros,
        "traffic_reserve_micros": row.surge.micros,
    }  # fmt: skip


def print_receipt(receipt: Receipt) -> None:
    """The bill."""
    money = "PLAY MONEY" if receipt.play else "dollars"
    console.print(f"Receipt of {receipt.run_id} ({receipt.outcome or 'still open'}), in {money}", style="italic")
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "our estimate", "provider billed"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in receipt.render_rows():
        table.add_row(*row)
    console.print(table)
    for failure in receipt.failures:
        console.print(failure, style="dim", soft_wrap=True)
    for artefact in receipt.artefacts:
        console.print(f"{artefact.path}  {artefact.size / 1e6:.2f} MB  sha256 {artefact.sha256[:12]}…")
    if receipt.estimated:
        notes.print(
            "Estimated: the final bill is not known yet; the larger of bill and estimate counts. `gpurent costs` asks "
            "again."
        )
    if not receipt.settled:
        notes.print("Not settled: a rental of this run may still cost money. `gpurent reap` ends it.", style="yellow")


def print_status(views: Sequence[RunView], now: float) -> None:
    """One line a run, one a rental."""
    if not views:
        console.print("Nothing runs.")
        return
    for view in views:
        run = view.run
        doing = session_status(run, now).state if is_session(run) else "training"
        state = run.outcome or (doing if view.client_alive else "client is gone")
        progress = f", step {run.last_progress.step}/{run.last_progress.total}" if run.last_progress else ""
        console.print(f"{run.id}  {run.name}  {state}{progress}  {view.spent.rounded(4)} of {run.budget.rounded()}")
        for rental in run.rentals:
            if run.outcome is None or not rental.state.over:
                left = duration(max(0.0, rental.hard_deadline - now))
                ends = "" if rental.state.over else f", ends at the latest in {left}"
                console.print(
                    f"  {rental.provider}:{rental.ref or rental.tag}  {rental.offer.gpu}  {rental.state}{ends}"
                )


def trained_dict(trained: Trained) -> dict[str, Any]:
    """JSON of a finished run."""
    return {
        "run_id": trained.run_id, "stopped": trained.stopped, "final_loss": trained.final_loss,
        "files": [str(path) for path in trained.files],
        "grid": None if trained.grid is None else str(trained.grid), "receipt": trained.receipt.to_dict(),
    }  # fmt: skip


def shown(amount: Usd) -> str:
    """Dollars with four decimals: cents are too coarse to watch."""
    return amount.rounded(4)
