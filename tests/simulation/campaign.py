"""Many lives, side by side, added up."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tests.session.world import make_job
from tests.simulation.coverage import surprising, untried
from tests.simulation.life import Tally, live
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import FAULTS, TROUBLES, draw

from gpurent.dataset.job import Job

BATCH = 50


@dataclass
class Findings:
    """What a campaign showed."""

    lives: int = 0
    tally: Tally = field(default_factory=Tally)
    broken: list[tuple[int, list[str]]] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Take in another's."""
        self.lives += other.lives
        self.tally.add(other.tally)
        self.broken += other.broken

    @property
    def never(self) -> list[str]:
        """Faults that never struck and steps of the ledger that were never taken: what no life has tried."""
        return [fault for fault in (*FAULTS, *TROUBLES) if not self.tally.faults[fault]] + untried(self.tally.moves)

    @property
    def surprises(self) -> list[str]:
        """Steps of the ledger that nobody had foreseen."""
        return surprising(self.tally.moves)


def _memory() -> str | None:
    """A folder in memory, where there is one: thousands of small files are written."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def _few_collections() -> Iterator[None]:
    """Lives make little that refers to itself."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def play(seeds: Sequence[int], mutant: str = "", stop_at_first: bool = False) -> Findings:
    """Play these seeds in this process."""
    found = Findings()
    with _few_collections(), tempfile.TemporaryDirectory(dir=_memory(), prefix="gpurent-simulation-") as name:
        folder = Path(name)
        (folder / "job").mkdir()
        job = Job.from_config(make_job(folder / "job"))
        for seed in seeds:
            with MUTANTS[mutant]() if mutant else nullcontext():
                verdict = live(draw(seed), job, folder / "life")
            found.lives += 1
            found.tally.add(verdict.tally)
            if verdict.violations and mutant and live(draw(seed), job, folder / "life").violations:
                continue  # it breaks with all guarantees in place as well: that proves nothing about this one
            if verdict.violations:
                found.broken.append((seed, verdict.violations))
                if stop_at_first:
                    break
    return found


def campaign(first: int, lives: int, processes: int, told: Callable[[Findings], None] = lambda _: None) -> Findings:
    """Play ``lives`` seeds from ``first`` on, in several processes; ``told`` hears of everything so far."""
    found = Findings()
    with ProcessPoolExecutor(processes) as pool:
        for part in pool.map(play, list(_batches(first, lives))):
            found.add(part)
            told(found)
    return found


def _batches(first: int, lives: int) -> Iterator[Sequence[int]]:
    for start in range(first, first + lives, BATCH):
        yield range(start, min(start + BATCH, first + lives))
