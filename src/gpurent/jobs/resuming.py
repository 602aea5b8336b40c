"""A run that goes on: its job is read again, and quoted by what is left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpurent.budget.state import Run
from gpurent.dataset.configfile import NO_CHANGES
from gpurent.dataset.content import key
from gpurent.dataset.increments import increments
from gpurent.dataset.job import Job
from gpurent.errors import UsageError
from gpurent.jobs import statefile
from gpurent.jobs.statefile import StateFile
from gpurent.jobs.work import Task
from gpurent.model import Workload


@dataclass(frozen=True, slots=True)
class Kept:
    """A state that a run has left at home."""

    number: int
    """Of its job in a batch; 0 in a run of one job."""
    name: str
    state: StateFile


def states(run: Run, run_dir: Path) -> list[Kept]:
    """The states at home that jobs of a run go on from. Raises UsageError for one that was changed."""
    jobs = run.config.get("jobs")
    if not isinstance(jobs, dict):
        state = statefile.found(run_dir)
        return [] if state is None else [Kept(0, run.name, state)]
    planned = ((name, one.get("number")) for name, one in jobs.items() if isinstance(one, dict))
    found = ((name, n, statefile.found(run_dir / "jobs" / str(n))) for name, n in planned if isinstance(n, int))
    return [Kept(number, name, state) for name, number, state in found if state is not None]


def the_one(run: Run, run_dir: Path, name: str | None) -> Kept:
    """The state to go on from: of the job that is named, or the only one.

    Raises:
        UsageError: there is none, or there are several and no job is named.
    """
    kept = states(run, run_dir)
    names = ", ".join(one.name for one in kept)
    of = "" if name is None else f" of the job {name}"
    found = [one for one in kept if name in (None, one.name)]
    if not found:
        hint = "A run leaves one when it was stopped by its budget, by --stop-at or with one Ctrl-C, or lost a machine "
        hint += f"after a state had come home. {f'Those of {names} came home.' if names else 'Train from the start.'}"
        raise UsageError(f"no state{of} of run {run.id} came home, so there is nothing to go on from", hint=hint)
    if len(found) > 1:
        raise UsageError(f"run {run.id} has left states of several jobs: {names}", hint=f"--job {found[0].name}")
    return found[0]


def left_behind(
    tasks: Sequence[Task], runs: Iterable[Run], run_dir: Callable[[str], Path], notes: list[str]
) -> dict[str, StateFile]:
    """The newest state at home from which each job of a batch goes on, by its name; others begin at their start.

    Args:
        tasks: with their digests.
        runs: those that are open are left alone.
        run_dir: of a run.
        notes: gets a word on states that cannot be used.
    """
    names = {key(task.job, task.content): task.job for task in tasks if task.content is not None}
    found: dict[str, StateFile] = {}
    for run in runs:
        begun = {job.key for rental in run.rentals for job in rental.jobs}
        if run.open_rentals or not begun & names.keys():
            continue
        try:
            kept = states(run, run_dir(run.id))
        except UsageError as error:
            notes.append(f"Run {run.id} is not gone on from: {error}")
            continue
        for state in (one.state for one in kept):
            job = names.get(state.key)
            if job is None or state.step >= job.length.steps:
                continue
            if job.name not in found or state.step > found[job.name].step:
                found[job.name] = state
    return found


def loads(jobs: Sequence[Job], resumes: Mapping[str, StateFile]) -> tuple[Workload, ...]:
    """What there is to plan of jobs that follow one another, some of which go on from a state."""
    return tuple(
        _rest(work, job.length.steps, resumes[job.name], job.length.steps) if job.name in resumes else work
        for job, work in zip(jobs, increments(jobs), strict=True)
    )


def read_again(run: Run, name: str, changes: Mapping[str, object] = NO_CHANGES) -> Job:
    """A job of a run, from the files that it was made from. Raises UsageError, also as ``Job.from_config``."""
    jobs = run.config.get("jobs")
    kept = jobs.get(name) if isinstance(jobs, dict) else None
    config, output, data, before = run.config.get("path"), run.output_dir, run.data_dir, run.config.get("changes")
    if isinstance(kept, dict):
        config, output, before = kept.get("config"), Path(str(kept.get("output_dir"))), kept.get("changes")
        data = Path(given) if isinstance(given := kept.get("data_dir"), str) else None
    changes = {**(before if isinstance(before, dict) else {}), **changes}
    if not isinstance(config, str):
        raise UsageError(
            f"run {run.id} cannot be continued: its configuration is not known", hint="Train from the start."
        )
    job = Job.from_config(config, output=output, name=name, changes=changes)
    if data is not None and job.data_dir != data:  # it was given beside the configuration
        job = Job.from_config(config, dataset=data, output=output, name=name, changes=changes)
    return job


def rest_of(job: Job, resume: StateFile | None, last_step: int | None) -> Job | Workload:
    """What there is to plan: the whole job, or a part of its steps and the state to send."""
    if resume is None and last_step is None:
        return job
    steps, done = last_step or job.length.steps, resume.step if resume else 0
    if done >= steps:
        raise UsageError(
            f"the state is of step {done}, and the training has {steps}: nothing is left of it",
            hint="A longer one goes on: --epochs with more than before.",
        )
    return _rest(job.workload, job.length.steps, resume, steps)


def _rest(work: Workload, whole: int, resume: StateFile | None, last: int) -> Workload:
    """The steps from a state to ``last``, of ``whole``, and the state to send."""
    done, size = (resume.step, resume.size) if resume else (0, 0)
    steps = max(1, round(work.steps * (last - done) / whole))
    return replace(work, steps=steps, upload_bytes=work.upload_bytes + size)
