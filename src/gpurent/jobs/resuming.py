"""A run that goes on: its job is read again, and quoted by what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gpurent.budget.state import Run
from gpurent.dataset.configfile import NO_CHANGES
from gpurent.dataset.job import Job
from gpurent.errors import UsageError
from gpurent.jobs.statefile import StateFile
from gpurent.model import Workload


def read_again(run: Run, changes: Mapping[str, object] = NO_CHANGES) -> Job:
    """The job of a run, from the files that it was made from. Raises UsageError, also as ``Job.from_config``."""
    config = run.config.get("path")
    if not isinstance(config, str) or "jobs" in run.config:
        hint = "Run the batch again: what is done stays done." if "jobs" in run.config else "Train anew."
        raise UsageError(f"run {run.id} cannot be continued: it is no run of one job", hint=hint)
    job = Job.from_config(config, output=run.output_dir, name=run.name, changes=changes)
    if run.data_dir is not None and job.data_dir != run.data_dir:  # it was given beside the configuration
        job = Job.from_config(config, dataset=run.data_dir, output=run.output_dir, name=run.name, changes=changes)
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
    work = job.workload
    share = (steps - done) / job.length.steps
    return replace(
        work, steps=max(1, round(work.steps * share)), upload_bytes=work.upload_bytes + (resume.size if resume else 0)
    )
