"""Where the product is told that it acts on virtual time, in a world of its own."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.simulation.computer import MortalLedger, acting

from gpurent import watchdog
from gpurent.budget.presence import Here
from gpurent.dataset.job import Job
from gpurent.dataset.manifest import listed
from gpurent.errors import UsageError
from gpurent.jobs import conduct, enforcer, watch
from gpurent.spi import LocalFile
from gpurent.verbs import attendance, resources
from gpurent_deadman import deadman

if TYPE_CHECKING:
    from tests.simulation.world import World


class _Lock:
    """``ClientLock`` without a file: held until its process lets go of it, or dies."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._process = acting()

    def __enter__(self) -> Self:
        if _held(self._run_dir):
            raise UsageError("another gpurent process conducts this run")
        self._process.locks.add(self._run_dir)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.locks.discard(self._run_dir)


def _held(run_dir: Path) -> bool:
    return any(run_dir in process.locks for process in acting().world.processes if process.ended is None)


def _place(home: Path) -> Here:
    return Here(home.name, home.name)


TURN_S = 30.0
"""Between two looks of a watchdog: rarer than in earnest, and often enough."""

_files: dict[Path, tuple[LocalFile, ...]] = {}


def _manifest(job: Job, *_: object) -> tuple[LocalFile, ...]:
    """Every life sends the same files: they are hashed once."""
    if job.config_path not in _files:
        _files[job.config_path] = listed(job.sources)
    return _files[job.config_path]


def _run_dir(of: resources.Resources, run_id: str) -> Path:
    return _folder(of.home, run_id)


@lru_cache(maxsize=100)
def _folder(home: Path, run_id: str) -> Path:
    return home / "runs" / run_id


@contextmanager
def swapped(owner: Any, name: str, other: object) -> Iterator[None]:
    """For a while ``owner`` has another attribute of this name."""
    own = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, own)


@contextmanager
def inside(world: World) -> Iterator[None]:
    """While this block runs, the product lives in ``world``."""

    def complain(error: Exception) -> None:
        world.tally.faults[f"a switch hears {type(error).__name__}"] += 1

    known: dict[str, bool] = {}
    ask = deadman.armed

    def armed(options: argparse.Namespace) -> bool:
        """What a machine's environment holds does not change while it lives."""
        if options.init not in known:
            known[options.init] = ask(options)
        return known[options.init]

    def environment(init: str) -> dict[str, str]:
        return world.network.machines[init].environment

    with ExitStack() as seams:
        for owner, name, other in (
            (resources, "Ledger", MortalLedger),
            (attendance, "is_alive", _held),
            (resources, "here", _place),
            (resources, "claim", _place),
            (conduct, "ClientLock", _Lock),
            (watchdog, "_log", lambda _text: None),
            (watchdog, "TURN_S", TURN_S),
            (enforcer, "LOOK_S", world.pace.look_s),
            (watch, "TICK_S", world.pace.tick_s),
            (Job, "upload_files", _manifest),
            (resources.Resources, "run_dir", _run_dir),
            (deadman, "complain", complain),
            (deadman, "environment", environment),
            (deadman, "armed", armed),
        ):
            seams.enter_context(swapped(owner, name, other))
        yield
