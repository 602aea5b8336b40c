"""SSH keys of rentals: needed while a machine exists, and deleted once it is confirmed gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gpurent.budget.state import Run

FOLDER = "keys"


def forget_keys(run_dir: Path, run: Run) -> None:
    """Delete the keys of every rental of a run that is over for good.

    Keys are made before the rental is written down, so those without a rental stay until the run is closed.
    """
    rentals = {one.tag: one.state.over for one in run.rentals}
    folder = run_dir / FOLDER
    with suppress(OSError):  # what cannot be deleted now is tried again by the next reap
        for keys in folder.iterdir():
            if rentals.get(keys.name, run.outcome is not None):
                shutil.rmtree(keys)
        folder.rmdir()


def sweep_keys(runs_dir: Path, runs: Iterable[Run]) -> None:
    """The same for all runs."""
    for run in runs:
        forget_keys(runs_dir / run.id, run)
