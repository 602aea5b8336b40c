"""Which job of a run a machine trains next. Several machines of the run, each in its thread, and other runs ask too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock

from gpurent.jobs.progress import JobOver
from gpurent.jobs.watch import Tell
from gpurent.jobs.work import Task, TaskState, Work


@dataclass
class Queue:
    """The jobs of a run that wait, handed out one at a time."""

    work: Work
    claim: Callable[[Task], str | None]
    """Claims a job in the ledger; the run that has it, where that is another."""
    tell: Tell
    _lock: RLock = field(default_factory=RLock, init=False)

    def take(self, owner: str, short: Callable[[Task], str], first: Task | None = None) -> Task | None:
        """The next job that nobody is on, that is not done elsewhere, and that fits.

        Args:
            owner: the rental that asks.
            short: why a job does not fit; empty where it does.
            first: one that it took before, which it would rather have than others.
        """
        with self._lock:
            if first is not None:
                self.back(owner, first)
            for task in self.work.waiting:
                if not task.owner and self._fits(task, short) and self.confirm(task):
                    task.owner = owner
                    return task
        return None

    def back(self, owner: str, task: Task) -> None:
        """The rental is not on it any more; if it is not done, another may take it."""
        with self._lock:
            if task.owner == owner:
                task.owner = ""

    def confirm(self, task: Task) -> bool:
        """Whether a job is this run's to train. Asked again right before its engine starts: its computer may have
        slept, and others may have held its client for dead."""
        if not self.work.batch:
            return True
        with self._lock:
            if self._home(task):
                return False
            if (run_id := self.claim(task)) is None:
                return True
            task.state, task.why = TaskState.ELSEWHERE, f"run {run_id} is on it"
            self.tell(JobOver(task.job.name, task.state, task.why))
            return False

    def _fits(self, task: Task, short: Callable[[Task], str]) -> bool:
        if self.work.batch and self._home(task):
            return False
        task.short = short(task)
        return not task.short

    def _home(self, task: Task) -> bool:
        if why := self.work.home(task):
            task.state, task.why = TaskState.HAD, why
            self.tell(JobOver(task.job.name, task.state, task.why))
        return bool(why)
