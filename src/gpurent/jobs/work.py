"""The jobs of one run and what has become of each. A run of one job is a batch of one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from gpurent.dataset.content import Content
from gpurent.dataset.job import Job
from gpurent.errors import GpurentError
from gpurent.expected import Expected
from gpurent.jobs.boot import Held
from gpurent.jobs.deadman import DeadMan
from gpurent.jobs.options import OnFailure
from gpurent.jobs.serving import IDLE_S
from gpurent.jobs.session import Outcome
from gpurent.jobs.statefile import StateFile
from gpurent.jobs.watch import Watch
from gpurent.plan.line import Ways
from gpurent.plan.pace import Pace
from gpurent.plan.timeline import Timeline

MOST_TRIES = 2
"""Machines on which a job may fail, as if by their fault, before it is believed to be its own."""


class TaskState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    DONE = "done"
    HAD = "had"
    """Another run brought its result home while this one was under way."""
    STOPPED = "stopped"
    """Ended early by the budget or by the user; what it had made is at home."""
    FAILED = "failed"
    LEFT = "not begun"
    ELSEWHERE = "elsewhere"
    """Another run, whose client lives, is to train it."""


@dataclass
class Task:
    """One job of a run."""

    job: Job
    number: int
    """From 1, in the order in which they are trained."""
    content: Content | None = None
    """Its files, if they were digested beforehand."""
    resume: StateFile | None = None
    """What it goes on from."""
    state: TaskState = TaskState.WAITING
    outcome: Outcome | None = None
    error: GpurentError | None = None
    why: str = ""
    tries: int = 0
    owner: str = ""
    """The rental of this run that is on it."""
    short: str = ""
    """Why it did not fit the time and money of a machine."""
    begun: bool = False
    """A machine has trained it, and was lost before its end."""
    planned: Timeline | None = None
    """Its estimate on the machine that is there, where it came after the quote."""
    quoted_from: int = field(default=0, init=False)
    """Step from which it was quoted."""

    def __post_init__(self) -> None:
        self.quoted_from = self.resume.step if self.resume else 0

    def share_left(self, last_step: int | None) -> float:
        """Part of what was quoted that is still to be trained."""
        last = last_step or self.job.length.steps
        done = self.resume.step if self.resume else 0
        return max(0.0, min(1.0, (last - done) / max(1, last - self.quoted_from)))

    def done(self, outcome: Outcome) -> None:
        """The engine came to its end."""
        self.outcome = outcome
        self.state = TaskState.STOPPED if outcome.stopped else TaskState.DONE

    def failed(self, error: GpurentError) -> None:
        """It is not tried again in this run."""
        self.state, self.error, self.why = TaskState.FAILED, error, str(error)

    def left(self, why: str) -> None:
        """It is not begun in this run."""
        self.state, self.why = TaskState.LEFT, why


class Standing(Protocol):
    """A rented machine between two jobs."""

    @property
    def held(self) -> Held:
        """The rental."""
        ...

    @property
    def watch(self) -> Watch:
        """Over its money and time."""
        ...

    @property
    def guard(self) -> DeadMan | None:
        """Its dead-man switch."""
        ...

    @property
    def pace(self) -> Pace:
        """How long jobs took on it so far."""
        ...

    @property
    def ways(self) -> Ways | None:
        """What its line carries."""
        ...


@dataclass
class Work:
    """What a run is to do."""

    tasks: Sequence[Task]
    batch: bool = False
    """Whether its jobs stand apart: one that fails, or no longer fits, leaves the others alone."""
    on_failure: OnFailure = "continue"
    home: Callable[[Task], str] = lambda _task: ""
    """Why a job need not be trained: another run may have done it meanwhile. Empty where it has to be."""
    rentals: int = 1
    """Machines at the same time."""
    stop_at: float | None = None
    """Share of each job's steps after which it stops."""
    comes: Callable[[Standing], bool] = lambda _machine: False
    """Waits for more to do, on a machine that is ready for it; False: the machine is not needed any more."""
    engine_idle_s: float = IDLE_S
    """After so long without a job the engine's process ends."""
    least_hours: float = 1.0
    """For which a machine may be rented, however short its jobs are, if its budget pays for that."""
    halted: bool = field(default=False, init=False)
    """The budget or the user ended it while no job was training."""

    @classmethod
    def of(cls, job: Job, resume: StateFile | None = None, stop_at: float | None = None) -> Work:
        """A run of one job."""
        return cls((Task(job, 1, resume=resume),), stop_at=stop_at)

    def last_step(self, task: Task) -> int | None:
        """After which a job stops; None for the last of all."""
        steps = task.job.length.steps
        return None if self.stop_at is None else min(steps, max(1, math.ceil(steps * self.stop_at)))

    @property
    def title(self) -> str:
        """Name of the run."""
        first, *others = (one.job.name for one in self.tasks)
        return f"{first} and {len(others)} more" if others else first

    @property
    def waiting(self) -> tuple[Task, ...]:
        """What is still to be trained, in order."""
        return tuple(one for one in self.tasks if one.state is TaskState.WAITING)

    @property
    def gained(self) -> bool:
        """Whether any job has brought something home."""
        return any(one.state in (TaskState.DONE, TaskState.STOPPED) for one in self.tasks)

    @property
    def interrupted(self) -> bool:
        """Whether a job that waits has lost its machine."""
        return any(one.begun for one in self.waiting)

    def place(self, task: Task) -> int:
        """Where a job stands among the others; so it does in a quote for them."""
        return next(place for place, one in enumerate(self.tasks) if one is task)

    def job_id(self, tag: str, task: Task) -> str:
        """Name of a job on the machine of a rental."""
        return f"{tag}-{task.number}" if self.batch else tag

    def leave(self, why: str) -> None:
        """Begin nothing more."""
        for task in self.waiting:
            if not task.owner:
                task.left(why)

    def halt(self, why: str) -> None:
        """The budget or the user ends it between two jobs."""
        self.halted = True
        self.leave(why)

    @property
    def outcome(self) -> Outcome:
        """How it all ended. Only asked for when nothing waits."""
        if not self.batch:
            (task,) = self.tasks
            assert task.outcome is not None
            return task.outcome
        made = [one.outcome for one in self.tasks if one.outcome is not None]
        return Outcome(
            finished=True,
            stopped=self.halted or any(one.stopped for one in made),
            files=[path for one in made for path in one.files],
            partial=any(one.state not in (TaskState.DONE, TaskState.HAD) for one in self.tasks),
        )

    @property
    def kept(self) -> dict[str, JsonValue]:
        """What somebody who takes the run over has to know of its jobs."""
        if not self.batch:
            (task,) = self.tasks
            return {"expected": task.job.expected.kept(), "changes": _changes(task), "logs": task.job.logs}
        return {"jobs": {one.job.name: kept(one) for one in self.tasks}}


def kept(task: Task) -> dict[str, JsonValue]:
    """What somebody who takes a run over has to know of one of its jobs."""
    return {
        "number": task.number,
        "output_dir": str(task.job.output_dir),
        "config": str(task.job.config_path),
        "data_dir": str(task.job.data_dir),
        "changes": _changes(task),
        "expected": task.job.expected.kept(),
        "logs": task.job.logs,
    }


def _changes(task: Task) -> JsonValue:
    """As they may stand in a configuration, so that it can be read again with them."""
    found: JsonValue = json.loads(json.dumps(dict(task.job.changes), default=str))
    return found


@dataclass(frozen=True, slots=True)
class Planned:
    """What the ledger says of one job of a run."""

    number: int
    output_dir: Path
    expected: Expected
    logs: str = ""
    """Folder for TensorBoard; empty where none is wanted."""


def planned(config: Mapping[str, JsonValue], name: str, output_dir: Path, job: str) -> Planned:
    """Read what ``Work.kept`` wrote into a run's configuration.

    Args:
        config, name, output_dir: of the run.
        job: name of the job; that of a run of one job is the run's own.
    """
    jobs = config.get("jobs")
    found = jobs.get(job) if isinstance(jobs, dict) else None
    if not isinstance(found, dict):
        return Planned(0, output_dir, Expected.of(config, name), str(config.get("logs") or ""))
    number = found.get("number")
    return Planned(
        number if isinstance(number, int) else 0, Path(str(found.get("output_dir"))), Expected.of(found, job),
        str(found.get("logs") or ""),
    )  # fmt: skip


def names(config: Mapping[str, JsonValue]) -> frozenset[str]:
    """Names of the jobs of a batch; empty for a run of one job."""
    jobs = config.get("jobs")
    return frozenset(jobs) if isinstance(jobs, dict) else frozenset()
