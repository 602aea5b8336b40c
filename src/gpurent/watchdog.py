"""A detached process per computer that outlives the terminal: it sees dead clients' runs to their end.

One per state folder, kept single by an operating-system lock. It starts with the first rental and ends by itself a
while after the last one is gone. What it does for a run is ``Broker.tend``.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from gpurent.broker import Broker
from gpurent.clock import Clock
from gpurent.errors import ConfigError, GpurentError
from gpurent.jobs.detached import LOCK, STATE, Guarding

TURN_S = 10.0
LINGER_S = 120.0
"""It stays this long after the last rental: the next one may come soon."""


@dataclass
class Watchdog:
    """The loop. ``open_broker`` makes a broker for each thread of its own, with the settings of a run's folder."""

    home: Path
    open_broker: Callable[[Path], Broker]
    clock: Clock
    _providers: tuple[str, ...] = field(default=(), init=False)
    _tending: dict[str, threading.Thread] = field(default_factory=dict, init=False)

    def run(self) -> bool:
        """Guard until nothing has been rented for a while; False if another watchdog does already."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        """Whoever began a run before the lock was free relies on this process."""
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
                open_runs = self._turn(broker, since)
            except (GpurentError, OSError) as error:
                # A full disk or a database out of reach is the worst moment to stop guarding.
                _log(f"this turn failed: {error}")
                open_runs = {"unknown": self.home}  # something may be rented, as far as can be told
            idle_since = now if open_runs or self._tending else idle_since
            if now - idle_since >= LINGER_S:
                return
            self.clock.sleep(TURN_S)

    def _open(self, broker: Broker) -> dict[str, Path]:
        """Runs that hold rentals or are about to, with the folders whose settings they were started with."""
        live = broker.live_runs()
        runs = [run for run in broker.ledger.runs() if run.open_rentals or run.id in live]
        return {run.id: Path(str(run.config.get("folder") or self.home)) for run in runs}

    def _turn(self, broker: Broker, since: float) -> dict[str, Path]:
        """Take over what has no client any more; returns the runs that may rent or hold rentals."""
        self._tending = {run: thread for run, thread in self._tending.items() if thread.is_alive()}
        open_runs = self._open(broker)
        for run_id in broker.abandoned():
            if run_id not in self._tending:
                folder = open_runs.get(run_id, self.home)
                thread = threading.Thread(target=self._tend, args=(run_id, folder), name=run_id, daemon=True)
                self._tending[run_id] = thread
                thread.start()
        self._learn({one.provider for one in broker.ledger.open_rentals()}, open_runs.values())
        watching = tuple(run for run in open_runs if run not in self._tending)
        told = Guarding(os.getpid(), since, self.clock.now(), tuple(self._tending), watching, self._providers)
        self._say(told)
        return open_runs

    def _learn(self, needed: set[str], folders: Iterable[Path]) -> None:
        """A key that was kept since this process began counts from now on."""
        for folder in folders if needed - {*self._providers} else ():
            with self._broker(folder) as broker:
                self._providers = tuple({*self._providers, *broker.opened})

    def _broker(self, folder: Path) -> Broker:
        """With the run's own settings; whoever breaks that file meanwhile does not keep a machine alive."""
        try:
            return self.open_broker(folder)
        except ConfigError as error:
            _log(f"{error} Going by the defaults.")
            return self.open_broker(self.home)

    def _tend(self, run_id: str, folder: Path) -> None:
        _log(f"taking over {run_id}")
        try:
            with self._broker(folder) as broker:
                broker.tend(run_id, tell=lambda event: _log(f"{run_id}: {event}"))
        except (GpurentError, OSError) as error:
            _log(f"{run_id}: {error}")  # it is still open in the ledger, so the next turn tries again
        else:
            _log(f"{run_id}: done")

    def _say(self, guarding: Guarding) -> None:
        """Leave word for ``gpurent watchdog status``."""
        part = self.home / f"{STATE}.part"
        part.write_text(json.dumps(asdict(guarding)), encoding="utf-8")
        part.replace(self.home / STATE)


def _log(text: str) -> None:
    print(text, flush=True)
