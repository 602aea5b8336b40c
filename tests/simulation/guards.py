"""This computer's watchdog: the real loop in a process of its own, its workers in theirs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tests.simulation.computer import Computer, Crash, MortalClock, Process
from tests.simulation.schedule import Guard
from tests.simulation.service import ACCOUNT, OTHER_ACCOUNT
from tests.simulation.world import World

from gpurent import watchdog
from gpurent.jobs.detached import Guarding


class Dog(watchdog.Watchdog):
    """Leaves no word on disk: nobody here reads it."""

    def _say(self, guarding: Guarding) -> None: ...


class Guards:
    """Starts the watchdog, and starts it again when a client misses it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._process: Process | None = None
        self._plan = world.schedule.guard

    def rouse(self, computer: Computer) -> None:
        """What a client does every half minute."""
        if self._plan is None or computer is not self._world.here or self.at_work:
            return
        plan, self._plan = self._plan, Guard(other_account=self._plan.other_account)
        key = OTHER_ACCOUNT if plan.other_account else ACCOUNT
        process = Process(computer, crash_at=plan.crash_at, freezes=dict(plan.freezes), key=key, name="watchdog")
        process.watches = True
        self._process = process
        process.run(lambda: self._run(process, plan))

    @property
    def at_work(self) -> bool:
        """Whether there is one that lives."""
        return self._process is not None and self._process.ended is None

    @property
    def quiet(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self.at_work or self._process is None or self._process.lost

    def _run(self, process: Process, plan: Guard) -> None:
        hangs = [plan.worker_hangs_at]

        def start(run_id: str, _folder: Path) -> Worker:
            return Worker(self._world, process, run_id, hangs.pop() if hangs else None)

        dog = Dog(process.computer.home, lambda _folder: self._world.open(process), MortalClock(process), start)
        with suppress(Crash):
            dog.run()
        process.end()
        for worker in process.children:
            if worker.ended is None:
                worker.kill("its watchdog has ended")


class Worker:
    """One process that tends one run."""

    def __init__(self, world: World, parent: Process, run_id: str, hangs_at: int | None) -> None:
        self._world = world
        self._process = Process(parent.computer, hangs_at=hangs_at, key=parent.key, name="worker")
        self._process.watches = True
        parent.children.append(self._process)
        self._process.run(lambda: self._run(run_id))

    def _run(self, run_id: str) -> None:
        with suppress(Crash), self._world.open(self._process) as broker:
            watchdog.tend(run_id, broker)
        self._process.end()

    def at_work(self) -> bool:
        """Whether it has not ended."""
        return self._process.ended is None

    def silent_s(self) -> float:
        """Seconds since it last did something."""
        return self._world.clock.now() - self._process.heard_at

    def kill(self) -> None:
        """SIGKILL: it lets go of everything, the lock of its run included."""
        self._process.kill("killed by its watchdog")
