"""Many lives, side by side, added up."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

from tests.session.world import make_job
from tests.simulation.coverage import surprising, untried
from tests.simulation.drawing import draw
from tests.simulation.life import Verdict, live
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import FAULTS, TROUBLES, Schedule
from tests.simulation.world import Tally

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

    @property
    def together(self) -> tuple[int, list[tuple[str, str]]]:
        """How many pairs of faults there are, and those that never struck in the same life."""
        pairs = list(combinations(sorted([*FAULTS, *TROUBLES]), 2))
        return len(pairs), [pair for pair in pairs if not self.tally.pairs[pair]]


class Stage:
    """Where lives are played, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "job").mkdir()
        self._job = Job.from_config(make_job(folder / "job"))

    def play(self, plan: Schedule, **options: object) -> Verdict:
        """One life; options as for ``live``."""
        return live(plan, self._job, self._folder / "life", **options)  # type: ignore[arg-type]

    def breaks(self, plan: Schedule) -> bool:
        """Whether an invariant does not hold in it."""
        return bool(self.play(plan).violations)


@contextmanager
def stage() -> Iterator[Stage]:
    """One in memory, where there is such a folder: thousands of small files are written."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with _few_collections(), tempfile.TemporaryDirectory(dir=memory, prefix="gpurent-simulation-") as name:
        yield Stage(Path(name))


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


def play(seeds: Sequence[int], mutant: str = "", stop_at_first: bool = False, batch: int = 0) -> Findings:
    """Play these seeds in this process, with ``batch`` as ``live`` has it."""
    found = Findings()
    with stage() as here:
        for seed in seeds:
            plan = draw(seed)
            with MUTANTS[mutant]() if mutant else nullcontext():
                verdict = here.play(plan, batch=batch)
            found.lives += 1
            found.tally.add(verdict.tally)
            if verdict.violations and mutant and here.breaks(plan):
                continue  # it breaks with all guarantees in place as well: that proves nothing about this one
            if verdict.violations:
                found.broken.append((seed, verdict.violations))
                if stop_at_first:
                    break
    return found


def campaign(
    first: int, lives: int, processes: int, told: Callable[[Findings], None] = lambda _: None, *, batch: int = 0
) -> Findings:
    """Play ``lives`` seeds from ``first`` on, in several processes; ``told`` hears of everything so far."""
    found = Findings()
    with ProcessPoolExecutor(processes) as pool:
        for part in pool.map(partial(play, batch=batch), list(_batches(first, lives))):
            found.add(part)
            told(found)
    return found


def _batches(first: int, lives: int) -> Iterator[Sequence[int]]:
    for start in range(first, first + lives, BATCH):
        yield range(start, min(start + BATCH, first + lives))
