"""Several jobs on one rental, or on several: what ``Broker.batch`` and ``Broker.batch_quote`` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpurent.budget.state import Run
from gpurent.dataset.job import Job
from gpurent.errors import Interrupted, NoOffer
from gpurent.jobs.batch import (
    Batch,
    BatchQuote,
    JobResult,
    chosen,
    ordered,
    refuse_twins,
    result_of,
    results_of,
    tasks,
    unaffordable,
)
from gpurent.jobs.options import BatchOptions, RunOptions
from gpurent.jobs.resuming import left_behind, loads
from gpurent.jobs.statefile import StateFile
from gpurent.jobs.work import Task, Work
from gpurent.model import Need
from gpurent.money import ZERO, Usd
from gpurent.plan.fleet import fleets
from gpurent.plan.quote import Quote, QuoteRow, affordable_rows, apart
from gpurent.report.receipt import make_receipt
from gpurent.verbs.attendance import Attendance
from gpurent.verbs.quoting import Quoting
from gpurent.verbs.resources import Resources
from gpurent.verbs.running import Caller, Running
from gpurent.verbs.training import require_money, with_grid

NO_MONEY = "the budget surely pays for the jobs before it only"


@dataclass(frozen=True)
class Batching:
    """Jobs that share a run."""

    resources: Resources
    attendance: Attendance
    quoting: Quoting
    running: Running

    def batch(
        self,
        jobs: Sequence[Job],
        *,
        budget: Usd,
        options: RunOptions,
        batch: BatchOptions,
        consent: Callable[[BatchQuote, QuoteRow], bool] | None,
        caller: Caller,
    ) -> Batch:
        """As ``Broker.batch``."""
        require_money(budget)
        jobs = [with_grid(job, options.grid, self.resources.settings) for job in jobs]
        found = self.quote(jobs, options.need, budget=budget, batch=batch)
        had = {one.name: one for one in found.had}
        if not found.jobs:
            return Batch(None, tuple(had[job.name] for job in jobs), stopped=False, receipt=None)
        self.resources.require_providers()
        ledger = self.resources.ledger
        rows = affordable_rows(found.quote, budget)
        if consent is not None and not consent(found, rows[0]):
            raise Interrupted("Nothing was rented.")
        if found.fleet is not None and len(found.fleet.rows) > 1:
            rows = _several(rows, found.quote)

        def home(task: Task) -> str:
            other = None if batch.again else result_of(task, ledger.runs(), self.attendance.away)
            return "" if other is None else other.why

        count = 1 if found.fleet is None else len(found.fleet.rows)
        work = Work(tasks(found.jobs, found.resumes), batch=True, on_failure=batch.on_failure, home=home, rentals=count)
        run_id, outcome = self.running.begin(
            work, name=work.title, quote=found.quote, rows=rows, budget=budget, options=options, caller=caller
        )
        run, now = ledger.run(run_id), self.resources.clock.now()
        results = {**had, **{one.name: one for one in results_of(work, run, ledger.runs(), now)}}
        results |= {job.name: JobResult(job.name, "not begun", why=NO_MONEY) for job in found.excluded}
        return Batch(run_id, tuple(results[job.name] for job in jobs), outcome.stopped, make_receipt(run, now))

    def quote(self, jobs: Sequence[Job], need: Need | None, *, budget: Usd | None, batch: BatchOptions) -> BatchQuote:
        """As ``Broker.batch_quote``."""
        refuse_twins(jobs)
        asked = need or self.resources.settings.need.as_need()
        runs: Sequence[Run] = () if batch.again or not self.resources.has_ledger else self.resources.ledger.runs()
        known = tasks(jobs) if runs else ()
        made = [result_of(task, runs, self.attendance.away) for task in known] if runs else [None] * len(jobs)
        had = tuple(one for one in made if one is not None)
        new = [job for job, one in zip(jobs, made, strict=True) if one is None]
        wanted = new if batch.in_order else ordered(new)
        if not wanted:
            return BatchQuote((), had, Quote((), asked, ()), None)
        notes: list[str] = []
        resumes = left_behind([one for one in known if one.job in wanted], runs, self.resources.run_dir, notes)
        quote = self.quoting.of(loads(wanted, resumes), need, budget)
        quote = replace(quote, notes=(*notes, *quote.notes))
        fitting = wanted
        try:
            if budget is not None:
                affordable_rows(quote, budget)
        except NoOffer as error:
            fitting = self._fitting(wanted, resumes, need, quote, budget=budget)
            if not fitting or not batch.partial:
                raise unaffordable(wanted, len(fitting), budget or ZERO, error) from error
            quote = self.quoting.again(loads(fitting, resumes), need, quote)
        rows = quote.rows if budget is None else _several(affordable_rows(quote, budget), quote)
        return BatchQuote(
            tuple(fitting),
            had,
            quote,
            apart=apart([job.workload for job in fitting], asked, quote),
            excluded=tuple(wanted[len(fitting) :]),
            fleet=chosen(rows, batch.rentals, budget),
            choices=tuple(fleets(rows)) if batch.rentals != 1 else (),
            resumes=resumes,
        )

    def _fitting(
        self, jobs: list[Job], resumes: Mapping[str, StateFile], need: Need | None, quote: Quote, *, budget: Usd | None
    ) -> list[Job]:
        """As many of the jobs, from the first on, as the budget surely pays for."""
        for count in range(len(jobs) - 1, 0, -1):
            rows = self.quoting.again(loads(jobs[:count], resumes), need, quote).rows
            if any(budget is None or row.asks <= budget for row in rows):
                return jobs[:count]
        return []


def _several(rows: Sequence[QuoteRow], quote: Quote) -> tuple[QuoteRow, ...]:
    """Offers for several machines: first those that could do everything within the budget, then the others."""
    play = rows[0].offer.provider in quote.play
    others = (row for row in quote.rows if row not in rows and (row.offer.provider in quote.play) is play)
    return (*rows, *others)
