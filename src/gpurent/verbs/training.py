"""Train one job, or go on with it from a state: what ``Broker.train`` and ``Broker.resumable`` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpurent.dataset.content import contents, key
from gpurent.dataset.job import Job
from gpurent.errors import Interrupted, UsageError
from gpurent.jobs.options import RunOptions
from gpurent.jobs.resuming import read_again, rest_of, the_one
from gpurent.jobs.statefile import StateFile
from gpurent.jobs.work import Work
from gpurent.money import ZERO, Usd
from gpurent.plan.quote import Quote, QuoteRow, affordable_rows
from gpurent.settings import Settings
from gpurent.verbs.quoting import Quoting
from gpurent.verbs.running import Caller, Running, Trained


def require_money(budget: Usd) -> None:
    """Raise UsageError for a budget that pays for nothing."""
    if budget <= ZERO:
        raise UsageError(f"a budget of {budget} pays for nothing", hint="Give an amount of dollars, e.g. --budget 10.")


def with_grid(job: Job, wanted: bool | None, settings: Settings) -> Job:
    """A job with a grid at its end, or without one, as ``[job] grid`` says where ``wanted`` is None."""
    return job if (settings.job.grid if wanted is None else wanted) else job.without_grid()


@dataclass(frozen=True)
class Training:
    """One job in a run of its own."""

    quoting: Quoting
    running: Running

    def train(
        self,
        job: Job,
        *,
        budget: Usd,
        options: RunOptions,
        consent: Callable[[Quote, QuoteRow], bool] | None,
        caller: Caller,
        resume: StateFile | None,
    ) -> Trained:
        """As ``Broker.train``."""
        require_money(budget)
        job = with_grid(job, options.grid, self.running.resources.settings)
        work = Work.of(job, resume, options.stop_at)
        rest = rest_of(job, resume, work.last_step(work.tasks[0]))
        quote = self.quoting.quote(rest, options.need, budget)
        self.running.resources.require_providers()
        rows = affordable_rows(quote, budget)
        if consent is not None and not consent(quote, rows[0]):
            raise Interrupted("Nothing was rented.")
        run_id, outcome = self.running.begin(
            work, name=job.name, quote=quote, rows=rows, budget=budget, options=options, caller=caller
        )
        return self.running.result(run_id, outcome)

    def resumable(self, run_id: str, changes: Mapping[str, object], job: str | None) -> tuple[Job, StateFile]:
        """As ``Broker.resumable``."""
        resources = self.running.resources
        run = resources.ledger.run(run_id)
        kept = the_one(run, resources.run_dir(run_id), job)
        found = read_again(run, kept.name)
        if key(found, contents([found])[0]) != kept.state.key:
            raise UsageError(
                f"the state of run {run_id} is of another training: configuration, pictures, captions or base model "
                "have changed since",
                hint="Undo the change, or train from the start. --epochs extends a training.",
            )
        return (read_again(run, kept.name, changes) if changes else found), kept.state
