"""A batch before and after its rentals: what is wrong with it, what is done already, in which order, and its bill."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from gpurent.budget.state import Artefact, Run
from gpurent.dataset.content import contents, key
from gpurent.dataset.job import Job
from gpurent.errors import NoOffer, UsageError
from gpurent.jobs.statefile import StateFile
from gpurent.jobs.work import Task, TaskState, Work
from gpurent.money import ZERO, Usd
from gpurent.plan.fleet import MOST, Fleet, fastest, fleets
from gpurent.plan.quote import Quote, QuoteRow
from gpurent.plan.throughput import work as work_of
from gpurent.report.receipt import Receipt
from gpurent.report.shares import shares

NONE: Mapping[str, StateFile] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of one job of a batch."""

    name: str
    state: str
    """``done``, ``had`` (an earlier run has its result), ``stopped``, ``failed``, ``elsewhere`` (another run is on
    it) or ``not begun``."""
    files: tuple[Path, ...] = ()
    final_loss: float | None = None
    why: str = ""
    setup: Usd = ZERO
    """Its share of what the rentals cost while no engine worked: each job that was begun there bears the same."""
    training: Usd = ZERO
    """Cost of the time from its engine's start to its end."""
    grid: Path | None = None
    """The picture that was drawn of it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What ``Broker.batch`` returns: every job with its files and its share of the bill."""

    run_id: str | None
    """None where every job had a result already, so that nothing was rented."""
    jobs: tuple[JobResult, ...]
    stopped: bool
    """The budget or the user ended it early."""
    receipt: Receipt | None

    @property
    def complete(self) -> bool:
        """Whether every job has its result."""
        return all(one.state in ("done", "had") for one in self.jobs)


@dataclass(frozen=True, slots=True)
class BatchQuote:
    """One quote for all jobs that are to be trained."""

    jobs: tuple[Job, ...]
    """In the order in which they are trained."""
    had: tuple[JobResult, ...]
    """Those that have their result already."""
    quote: Quote
    apart: Usd | None
    """What a rental for each would be expected to cost; None where a job fits no offer by itself."""
    excluded: tuple[Job, ...] = ()
    """Those that the budget surely does not pay for: they are not begun."""
    fleet: Fleet | None = None
    """The machines that share the jobs, where there is anything to train and an offer for it."""
    choices: tuple[Fleet, ...] = ()
    """The same jobs on one machine, on two, and so on."""
    resumes: Mapping[str, StateFile] = field(default_factory=dict)
    """What jobs go on from, by their names: an earlier run has left it at home."""


def refuse_twins(jobs: Sequence[Job]) -> None:
    """Every job needs a name and files of its own. Raises UsageError naming all that do not have them."""
    if not jobs:
        raise UsageError("There is no job in this batch.", hint="Name configurations, or a file that lists jobs.")
    wrong = [f"two jobs are called {name}" for name, count in Counter(job.name for job in jobs).items() if count > 1]
    owners: dict[Path, str] = {}
    for job in jobs:
        for file in sorted(job.expected.planned):
            first = owners.setdefault(job.output_dir / file, job.name)
            if first != job.name:
                wrong.append(f"{first} and {job.name} would both write {job.output_dir / file}")
    if wrong:
        raise UsageError(
            f"{'; '.join(dict.fromkeys(wrong))}.", hint="Give each job an output_name of its own: `name` in its table."
        )


def ordered(jobs: Iterable[Job]) -> list[Job]:
    """Jobs of one base model together, the least work first: when money ends, as many as possible are home."""
    listed = list(jobs)
    bases: dict[str, float] = {}
    for job in listed:
        bases[_base(job)] = min(bases.get(_base(job), float("inf")), _effort(job))
    return sorted(listed, key=lambda job: (bases[_base(job)], _base(job), _effort(job)))


def _base(job: Job) -> str:
    return str(getattr(job.base_model, "path", job.base_model_id))


def _effort(job: Job) -> float:
    one = job.workload
    return one.steps * one.batch_size * work_of(one)


def tasks(jobs: Sequence[Job], resumes: Mapping[str, StateFile] = NONE) -> tuple[Task, ...]:
    """Jobs with their numbers, digests and states to go on from. Raises SourceChanged."""
    found = enumerate(zip(jobs, contents(jobs), strict=True), 1)
    return tuple(Task(job, number, content, resumes.get(job.name)) for number, (job, content) in found)


def result_of(
    task: Task, runs: Iterable[Run], away: Callable[[Run], bool] = lambda _run: False
) -> JobResult | None:  # fmt: skip
    """The verified result that an earlier run has brought home for exactly this job, if its file is still there.

    Args:
        task: with its digests.
        runs: to look through.
        away: whether a run was another computer's, whose files cannot be looked at: then its word is enough.
    """
    assert task.content is not None
    wanted = key(task.job, task.content)
    for run in runs:
        ids = {job.id for rental in run.rentals for job in rental.jobs if job.key == wanted}
        for one in run.artefacts:
            if one.final and one.job_id in ids and _intact(one):
                return JobResult(task.job.name, "had", (one.path,), why=f"run {run.id} has trained it")
            if one.final and one.job_id in ids and not one.path.exists() and away(run):
                why = f"run {run.id} has trained it: {one.path} on {run.client.host}"
                return JobResult(task.job.name, "had", why=why)
    return None


def _intact(one: Artefact) -> bool:
    try:
        with one.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == one.sha256
    except OSError:
        return False


def unaffordable(jobs: Sequence[Job], fitting: int, budget: Usd, error: NoOffer) -> NoOffer:
    """Why a budget is refused that pays for some of the jobs only, or for none."""
    if not fitting or error.enough is None:
        return error
    first, rest = (", ".join(job.name for job in part) for part in (jobs[:fitting], jobs[fitting:]))
    enough = f"{Usd(error.enough).decimal():.2f}"
    return NoOffer(
        f"{budget} surely pays for {fitting} of {len(jobs)} jobs: {first}. It may not be enough for {rest}.",
        hint=f"--budget {enough} is enough for all. --partial begins, and trains as many as the money pays for.",
        enough=error.enough,
    )


def chosen(rows: Sequence[QuoteRow], rentals: int | Literal["auto"], budget: Usd | None) -> Fleet | None:
    """How many machines share the jobs of a batch; None where there is no offer.

    Raises:
        UsageError: there cannot be so many.
        NoOffer: the budget may not pay for them.
    """
    if rentals != "auto" and not 1 <= rentals <= MOST:
        raise UsageError(
            f"{rentals} is not a number of machines for a batch.", hint=f"--rentals takes 1 to {MOST}, or auto."
        )
    if not rows:
        return None
    found = fleets(rows)
    if rentals == "auto":
        return found[0] if budget is None else fastest(rows, budget)
    wanted = found[min(rentals, len(found)) - 1]
    if budget is not None and len(wanted.rows) > 1 and wanted.asks > budget:
        fit = max((len(one.rows) for one in found if one.asks <= budget), default=1)
        raise NoOffer(
            f"{budget} may not pay for {len(wanted.rows)} machines at the same time: they may cost {wanted.asks}.",
            hint=f"--rentals {fit} surely fits, or --budget {wanted.asks.decimal():.2f}.", enough=wanted.asks.micros,
        )  # fmt: skip
    return wanted


def results_of(work: Work, run: Run, runs: Iterable[Run], now: float) -> list[JobResult]:
    """What became of the jobs of a run, each with its share of the bill."""
    parts = shares(run, now)
    found = []
    for task in work.tasks:
        ids = {job.id for rental in run.rentals for job in rental.jobs if job.name == task.job.name}
        files = tuple(one.path for one in run.loras if one.job_id in ids)
        if task.state is TaskState.HAD and (other := result_of(task, runs)) is not None:
            files = other.files
        loss, grid = (None, None) if task.outcome is None else (task.outcome.final_loss, task.outcome.grid)
        setup, training = parts.get(task.job.name, (ZERO, ZERO))
        found.append(
            JobResult(
                name=task.job.name,
                state=str(task.state),
                files=files,
                final_loss=loss,
                why=task.why,
                setup=setup,
                training=training,
                grid=grid,
            )
        )
    return found
