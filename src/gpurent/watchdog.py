"""A detached process per computer that outlives the terminal: it sees dead clients' runs to their end.

One per state folder, kept single by an operating-system lock. It starts with the first rental and ends by itself a
while after the last one is gone. What it does for a run is ``Broker.tend``, in a process of its own that is killed and
started again should it hang. Beside that it ends every rental of this computer that is past its hard deadline, whether
a client lives or not: by an enforcer with a thread, a provider and a ledger of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from gpurent.broker import Broker
from gpurent.budget.state import Rental
from gpurent.clock import Clock
from gpurent.errors import ConfigError, GpurentError
from gpurent.jobs.detached import LOCK, STATE, Guarding
from gpurent.jobs.enforcer import Enforcer, Target
from gpurent.jobs.tending import HANG_S, Worker
from gpurent.localfiles import private_folder

TURN_S = 10.0
LINGER_S = 120.0
"""It stays this long after the last rental: the next one may come soon."""
REST_S = 120.0
"""The longest pause before a run whose worker could not end it is taken over again."""
LEAD_S = 8.0
"""What a living client, which keeps its own deadline, is given before an enforcer acts."""


@dataclass
class Watchdog:
    """The loop. ``open_broker`` makes a broker with the settings of a run's folder."""

    home: Path
    open_broker: Callable[[Path], Broker]
    clock: Clock
    start: Callable[[str, Path], Worker]
    """Begins to tend a run, with the settings of a folder."""
    hang_s: float = HANG_S
    _providers: tuple[str, ...] = field(default=(), init=False)
    _tending: dict[str, Worker] = field(default_factory=dict, init=False)
    _rests: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)
    """When a run may be taken over again after a worker ended without ending it, and how long that pause was."""
    enforcers: dict[str, Enforcer] = field(default_factory=dict, init=False)
    """By the tags of the rentals that they end. Each is at work in a thread of its own."""

    def run(self) -> bool:
        """Guard until nothing has been rented for a while; False if another watchdog does already."""
        private_folder(self.home)
        lock = FileLock(self.home / LOCK)
        with self.open_broker(self.home) as broker:
            while True:
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    return False
                try:
                    self._guard(broker)
                finally:
                    (self.home / STATE).unlink(missing_ok=True)
                    lock.release()
                if not self._needed(broker):
                    return True

    def _needed(self, broker: Broker) -> bool:
        """A client that began a run before the lock was free relies on this process."""
        try:
            return bool(self._open(broker))
        except GpurentError as error:
            _log(f"this look failed: {error}")
            return True

    def _guard(self, broker: Broker) -> None:
        since = idle_since = self.clock.now()
        self._providers = tuple(broker.opened)
        while True:
            now = self.clock.now()
            try:
                open_runs = self.turn(broker, since)
            except Exception as error:  # noqa: BLE001
                # A full disk, a database out of reach or whatever else is the worst moment to stop guarding.
                _log(f"this turn failed: {type(error).__name__}: {error}")
                open_runs = {"unknown": self.home}  # something may be rented, as far as can be told
            idle_since = now if open_runs or self._tending else idle_since
            if now - idle_since >= LINGER_S:
                return
            self.clock.sleep(TURN_S)

    def _open(self, broker: Broker) -> dict[str, Path]:
        """Runs that hold rentals, or may come to hold one, with the folders whose settings they were started with."""
        needed = {*broker.live_runs(), *broker.surfacing()}
        runs = [run for run in broker.ledger.runs() if run.open_rentals or run.id in needed]
        return {run.id: Path(str(run.config.get("folder") or self.home)) for run in runs}

    def turn(self, broker: Broker, since: float) -> dict[str, Path]:
        """One look: take over what has no client any more, replace workers that hang, see to the enforcers.

        Returns:
            The runs that may rent or hold rentals, with their folders.
        """
        self._bury()
        open_runs = self._open(broker)
        self._enforce(broker, open_runs)
        for run_id in (*broker.abandoned(), *broker.surfacing()):
            if run_id not in self._tending and self.clock.monotonic() >= self._rests.get(run_id, (0.0, 0.0))[0]:
                _log(f"taking over {run_id}")
                self._tending[run_id] = self.start(run_id, open_runs.get(run_id, self.home))
        self._learn({one.provider for one in broker.ledger.open_rentals()}, open_runs.values())
        watching = tuple(run for run in open_runs if run not in self._tending)
        told = Guarding(
            pid=os.getpid(),
            since=since,
            at=self.clock.now(),
            tending=tuple(self._tending),
            watching=watching,
            providers=self._providers,
        )
        self._say(told)
        return open_runs

    def _bury(self) -> None:
        """Let go of workers that have ended, and of those that hang: what they leave is taken over again."""
        for run_id, worker in list(self._tending.items()):
            if worker.at_work() and worker.silent_s() > self.hang_s:
                _log(f"what tends {run_id} has shown no sign of life for {self.hang_s:.0f} s: it is killed")
                worker.kill()
            elif not worker.at_work():
                pause = min(REST_S, 2 * self._rests.get(run_id, (0.0, TURN_S / 2))[1])
                self._rests[run_id] = self.clock.monotonic() + pause, pause
            if not worker.at_work():
                del self._tending[run_id]

    def _enforce(self, broker: Broker, folders: dict[str, Path]) -> None:
        """See that every rental of this computer has an enforcer, and that none outlives its rental."""
        rentals = {one.tag: one for one in broker.own_rentals()}
        for tag in self.enforcers.keys() - rentals.keys():
            self.enforcers.pop(tag).over = True
        for tag, rental in rentals.items():
            if tag not in self.enforcers:
                self.enforcers[tag] = self._enforcer(rental, folders.get(rental.run_id, self.home))
                self.clock.begin(self.enforcers[tag].run)
            self.enforcers[tag].ref = rental.ref

    def _enforcer(self, rental: Rental, folder: Path) -> Enforcer:
        target = Target(rental.run_id, rental.tag, rental.provider, rental.hard_deadline)
        own = self._broker(folder)
        return own.enforcer(target, tell=lambda event: _log(f"{rental.run_id}: {event}"), lead_s=LEAD_S)

    def _learn(self, needed: set[str], folders: Iterable[Path]) -> None:
        """A key that was kept since this process began counts from now on."""
        for folder in folders if needed - {*self._providers} else ():
            with self._broker(folder) as broker:
                self._providers = tuple({*self._providers, *broker.opened})

    def _broker(self, folder: Path) -> Broker:
        return with_settings(folder, self.open_broker, self.home)

    def _say(self, guarding: Guarding) -> None:
        """Leave word for ``gpurent watchdog status``."""
        part = self.home / f"{STATE}.part"
        part.write_text(json.dumps(asdict(guarding)), encoding="utf-8")
        part.replace(self.home / STATE)


def with_settings(folder: Path, open_broker: Callable[[Path], Broker], home: Path) -> Broker:
    """With the run's own settings; breaking that file meanwhile does not keep a machine alive."""
    try:
        return open_broker(folder)
    except ConfigError as error:
        _log(f"{error} Going by the defaults.")
        return open_broker(home)


def tend(run_id: str, broker: Broker) -> None:
    """What a worker does: see one run to its end. What is left is in the ledger, and comes up again."""
    try:
        broker.tend(run_id, tell=lambda event: _log(f"{run_id}: {event}"))
    except (GpurentError, OSError) as error:
        _log(f"{run_id}: {error}")
    else:
        _log(f"{run_id}: done")


def _log(text: str) -> None:
    with suppress(OSError):  # a log on a full disk must not keep a machine alive
        print(text, flush=True)
