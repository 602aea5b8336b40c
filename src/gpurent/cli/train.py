"""``gpurent train``."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gpurent.broker import Broker
from gpurent.cli import output
from gpurent.cli.common import latest_run, open_broker, read_job
from gpurent.cli.conducting import conduct
from gpurent.cli.quote import NeedOptions
from gpurent.cli.renting import agreed, require_budget, warn_of_doubt
from gpurent.dataset.grid import picture_of
from gpurent.dataset.job import Job
from gpurent.jobs import hublook
from gpurent.jobs.basemodel import Hubs
from gpurent.jobs.options import RunOptions
from gpurent.jobs.resuming import rest_of
from gpurent.jobs.statefile import StateFile
from gpurent.jobs.work import Work
from gpurent.money import Usd
from gpurent.plan.quote import Quote, QuoteRow, require_offer
from gpurent.words import counted


@dataclass(frozen=True)
class TrainOptions:
    """Options of the command."""

    budget: Usd | None
    config: Path | None
    dataset: Path | None
    output: Path | None
    need: NeedOptions
    dry_run: bool
    yes: bool
    as_json: bool
    run: RunOptions


def run(options: TrainOptions) -> int:
    """Check everything, ask, then let the broker do it."""
    with open_broker() as broker:
        budget = require_budget(broker, options.budget, "train")
        job = read_job(broker, options.config, options.dataset, options.output, quiet=options.as_json)
        job = hublook.look(job, Hubs.of(tuple(broker.settings.job.hubs), os.environ))
        return _train(broker, job, None, budget, options=options)


def go_on(run_id: str | None, name: str | None, epochs: int | None, options: TrainOptions) -> int:
    """``gpurent continue``."""
    with open_broker() as broker:
        chosen = latest_run(broker, run_id)
        job, state = broker.resumable(chosen, {} if epochs is None else {"max_train_epochs": epochs}, job=name)
        if not options.as_json:
            output.console.print(f"{chosen} goes on from step {state.step} of {job.length.steps}.")
        return _train(broker, job, state, require_budget(broker, options.budget, "continue"), options=options)


def _train(broker: Broker, job: Job, state: StateFile | None, budget: Usd, *, options: TrainOptions) -> int:
    job = broker.drawing(job, options.run.grid)
    if not options.as_json:
        describe(job)
    need = options.need.over(broker.need)
    if options.dry_run:
        work = Work.of(job, state, options.run.stop_at)
        quote = broker.quote(rest_of(job, state, work.last_step(work.tasks[0])), need, budget=budget)
        output.print_json(output.quote_dict(quote, 5)) if options.as_json else output.print_quote(quote, 5)
        require_offer(quote, budget)
        return 0
    warn_of_doubt(broker)

    def consent(quote: Quote, best: QuoteRow) -> bool:
        show = partial(output.print_quote, quote, 5)
        return agreed(best, budget, "", show, yes=options.yes, as_json=options.as_json)

    return conduct(
        broker,
        lambda front: broker.train(
            job,
            budget=budget,
            options=replace(options.run, need=need),
            consent=front.agreed(consent),
            tell=front.tell,
            interrupt=front.interrupt,
            asker=Terminal() if sys.stdin.isatty() and not options.as_json else None,
            resume=state,
        ),
        as_json=options.as_json,
        asks_first=True,
    )


class Terminal:
    """Asks on the terminal; an answer that comes after the run's end is not heard."""

    def __init__(self) -> None:
        self._answer: str | None = None

    def ask(self, question: str) -> None:
        """Put the question while the training goes on; an earlier answer was to an earlier job's."""
        self._answer = None
        output.notes.print(question, style="bold yellow")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        said = sys.stdin.readline().strip().lower()
        self._answer = "shrink" if said in ("y", "yes") else "stop"

    def answer(self) -> str | None:
        """What was answered; None so far."""
        return self._answer


def describe(job: Job) -> None:
    """What will be trained, and what is doubtful about it."""
    length, spec = job.length, job.spec
    output.console.print(
        f"{job.name}: {counted(len(job.dataset.images), 'image')}, {counted(length.epochs, 'epoch')} of "
        f"{counted(length.steps_per_epoch, 'step')}, "
        f"batch {spec.train_batch_size}, rank {spec.network_dim}, base model {job.base_model.name}"
    )
    earlier = job.output_dir / f"{job.name}.safetensors"
    kept = "another output_name or output_dir in the configuration keeps it"
    picture = job.output_dir / picture_of(job.expected.final)
    there = [path for path in (earlier, *((picture,) if job.grid else ())) if path.exists()]
    replaced = [f"{path} will be replaced; {kept}." for path in there]
    for warning in (*job.warnings, *replaced):
        output.console.print(f"note: {warning}", style="yellow", soft_wrap=True)
