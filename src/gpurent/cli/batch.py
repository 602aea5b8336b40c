"""``gpurent batch``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from gpurent.cli import consoles, output
from gpurent.cli.common import open_broker
from gpurent.cli.conducting import begun
from gpurent.cli.quote import NeedOptions
from gpurent.cli.renting import agreed, require_budget, warn_of_doubt
from gpurent.cli.train import Terminal
from gpurent.dataset.batchfile import checked, wanted
from gpurent.dataset.job import Job
from gpurent.errors import UsageError
from gpurent.jobs import hublook
from gpurent.jobs.basemodel import Hubs
from gpurent.jobs.batch import Batch, BatchQuote, JobResult
from gpurent.jobs.interrupt import Stop
from gpurent.jobs.options import BatchOptions, RunOptions
from gpurent.money import ZERO, Usd, per_hour
from gpurent.plan.fleet import MOST, spans
from gpurent.plan.quote import QuoteRow
from gpurent.words import counted

COLOURS = {
    "done": "green",
    "had": "green",
    "stopped": "yellow",
    "elsewhere": "yellow",
    "not begun": "yellow",
    "failed": "red",
}
SAID = {"had": "done before"}


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    paths: tuple[Path, ...]
    budget: Usd | None
    need: NeedOptions
    dry_run: bool
    yes: bool
    as_json: bool
    run: RunOptions
    batch: BatchOptions


def run(options: Options) -> int:
    """Check every job, ask, then let the broker do it."""
    with open_broker() as broker:
        budget = require_budget(broker, options.budget, "batch …")
        checked = hublook.look_all(_read(options), Hubs.of(tuple(broker.settings.job.hubs), os.environ))
        jobs = [broker.drawing(job, options.run.grid) for job in checked]
        need = options.need.over(broker.need)
        if not options.as_json:
            _describe(jobs)
        if options.dry_run:
            found = broker.batch_quote(jobs, need, budget=budget, batch=options.batch)
            output.print_json(_quote_dict(found)) if options.as_json else _print_quote(found)
            return 0
        warn_of_doubt(broker)

        def consent(found: BatchQuote, best: QuoteRow) -> bool:
            more = 0 if found.fleet is None else len(found.fleet.rows) - 1
            others = f" and {counted(more, 'more machine')}" if more else ""
            what, show = f"{others} for {counted(len(found.jobs), 'job')}", partial(_print_quote, found)
            return agreed(best, budget, what, show, yes=options.yes, as_json=options.as_json)

        made, level = begun(
            broker,
            lambda front: broker.batch(
                jobs,
                budget=budget,
                options=replace(options.run, need=need),
                batch=options.batch,
                consent=front.agreed(consent),
                tell=front.tell,
                interrupt=front.interrupt,
                asker=Terminal() if sys.stdin.isatty() and not options.as_json else None,
            ),
            as_json=options.as_json,
            asks_first=True,
        )
    if options.as_json:
        output.print_json_line("batch", _batch_dict(made))
    else:
        _print_batch(made)
    return _code(made, level)


def count_of(text: str) -> int | Literal["auto"]:
    """Value of ``--rentals``. Raises UsageError."""
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise UsageError(f"{text!r} is not a number of machines", hint=f"--rentals takes 1 to {MOST}, or auto.")
    return int(text)


def _read(options: Options) -> list[Job]:
    console = consoles.make(stderr=True)

    def left_out(path: Path) -> None:
        console.print(f"note: {path} names no base model; it is left out.", style="yellow", markup=False)

    jobs = wanted(options.paths, left_out)
    with Progress(console=console, transient=True, disable=options.as_json or not console.is_terminal) as bar:
        task = bar.add_task("Checking jobs", total=None)
        return checked(jobs, lambda done, total: bar.update(task, completed=done, total=total))


def _describe(jobs: list[Job]) -> None:
    for job in jobs:
        images, steps = counted(len(job.dataset.images), "image"), counted(job.length.steps, "step")
        output.console.print(
            f"{job.name}: {images}, {steps}, batch {job.spec.train_batch_size}, rank {job.spec.network_dim}, "
            f"base model {job.base_model.name}", soft_wrap=True,
        )  # fmt: skip
    said: dict[str, list[str]] = {}
    for job in jobs:
        for warning in job.warnings:
            said.setdefault(warning, []).append(job.name)
    for warning, names in said.items():
        whose = "" if len(names) == len(jobs) else f"{', '.join(names)}: "
        output.console.print(f"note: {whose}{warning}", style="yellow", soft_wrap=True)


def _print_quote(found: BatchQuote) -> None:
    for one in found.had:
        output.console.print(f"{one.name}: done before ({one.why}); --again trains it again.", style="green")
    for name, state in found.resumes.items():
        output.console.print(f"{name}: goes on from step {state.step} of {state.steps}, which an earlier run has left.")
    if not found.jobs:
        output.console.print("Every job has its result; there is nothing to rent.")
        return
    output.print_quote(found.quote, 5)
    if found.quote.rows:
        row = found.quote.rows[0]
        shared_s, own = spans(row)
        table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(f"on {row.offer.gpu} at {row.offer.provider}")
        for heading in ("time", "cost"):
            table.add_column(heading, justify="right", no_wrap=True)
        lines = [("set-up, end and first upload", shared_s), *zip((job.name for job in found.jobs), own, strict=True)]
        for name, seconds in lines:
            cost = per_hour(row.hourly, round(seconds * 1000))
            table.add_row(Text(name), output.duration(seconds), cost.rounded(4))
        table.add_row("all in, with traffic", output.duration(row.timeline.total_s.mid), row.mid.total.rounded(4))
        if found.apart is not None and len(found.jobs) > 1:
            table.add_row("as separate rentals", "", found.apart.rounded(4))
        output.console.print(table)
    if len(found.choices) > 1:
        table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("machines")
        for heading in ("time", "cost", "budget"):
            table.add_column(heading, justify="right", no_wrap=True)
        for choice in found.choices:
            count = len(choice.rows)
            mark = " (chosen)" if found.fleet is not None and count == len(found.fleet.rows) else ""
            money = [choice.mid.rounded(4), choice.asks.rounded()]
            table.add_row(f"{count}{mark}", output.duration(choice.seconds), *money)
        output.console.print(table)
    if found.excluded:
        names = ", ".join(job.name for job in found.excluded)
        output.console.print(f"The budget surely does not pay for {names}: not begun.", style="yellow", soft_wrap=True)


def _quote_dict(found: BatchQuote) -> dict[str, Any]:
    rows = found.quote.rows
    shared_s, own = spans(rows[0]) if rows else (0.0, [])
    return {
        "jobs": [
            {
                "name": job.name,
                "steps": job.length.steps,
                "from_step": found.resumes[job.name].step if job.name in found.resumes else 0,
                "expected_s": round(seconds, 1),
            }
            for job, seconds in zip(found.jobs, own, strict=bool(rows))
        ],
        "shared_s": round(shared_s, 1),
        "had": [_job_dict(one) for one in found.had],
        "not_begun": [job.name for job in found.excluded],
        "machines": [
            {
                "count": len(one.rows),
                "expected_s": round(one.seconds, 1),
                "expected_micros": one.mid.micros,
                "budget_micros": one.asks.micros,
                "chosen": found.fleet is not None and len(one.rows) == len(found.fleet.rows),
            }
            for one in found.choices
        ],
        "separate_micros": None if found.apart is None else found.apart.micros,
        "quote": output.quote_dict(found.quote, 5) if found.jobs else None,
    }


def _job_dict(one: JobResult) -> dict[str, Any]:
    plain = {**asdict(one), "files": [str(path) for path in one.files], "grid": one.grid and str(one.grid)}
    money = {f"{name}_micros": plain.pop(name)["micros"] for name in ("setup", "training")}
    return {**plain, **money}


def _batch_dict(made: Batch) -> dict[str, Any]:
    return {
        "run_id": made.run_id,
        "complete": made.complete,
        "stopped": made.stopped,
        "jobs": [_job_dict(one) for one in made.jobs],
        "receipt": None if made.receipt is None else made.receipt.to_dict(),
    }


def _print_batch(made: Batch) -> None:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("job", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("training", justify="right", no_wrap=True)
    table.add_column("set-up", justify="right", no_wrap=True)
    table.add_column("result")
    for one in made.jobs:
        result = str(one.files[-1]) if one.files else one.why
        style = COLOURS.get(one.state, "")
        money = [amount.rounded(4) if amount > ZERO else "" for amount in (one.training, one.setup)]
        table.add_row(Text(one.name), Text(SAID.get(one.state, one.state), style), *money, Text(result))
    if made.receipt is not None:
        output.print_receipt(made.receipt)
    output.console.print(table)
    for one in made.jobs:
        if one.grid is not None:
            output.console.print(str(one.grid), soft_wrap=True, markup=False, highlight=False)
        if one.why and one.files and one.state != "had":
            output.console.print(f"{one.name}: {one.why}", style="yellow", soft_wrap=True)


def _code(made: Batch, level: Stop) -> int:
    """As ``train`` has it: 130 for the user's stop, 4 for the budget's, 1 for a job that failed."""
    if made.stopped:
        return 130 if level >= Stop.ORDERLY else 4
    states = {one.state for one in made.jobs}
    return 1 if "failed" in states else 4 if "not begun" in states else 0
