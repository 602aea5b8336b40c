"""Curves for TensorBoard, written on this computer from the engine's events; nothing of it runs on a rented machine.

Names of curves are those of kohya's trainer. The format is TensorBoard's, by tensorboardX, an extra that few need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpurent.dataset.job import RUN
from gpurent.jobs.events import Step
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell

FLUSH_S = 5


class Scalars:
    """One run's curves. What cannot be written is told once; the training goes on."""

    def __init__(self, writer: Any, tell: Tell) -> None:
        self._writer: Any = writer
        self._tell = tell

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add a point to each curve; what is not a finite number is left out."""
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                if value is not None and math.isfinite(value):
                    self._writer.add_scalar(name, value, step)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        self._tell(Notice(f"No more is written for TensorBoard: {error}", warning=True))


def of_step(step: Step) -> dict[str, float | None]:
    """The curves of a report."""
    return {
        "loss/current": step.loss, "loss/average": step.avg_loss, "lr/unet": step.lr, "speed/images_s": step.images_s,
        "memory/peak_mb": step.peak_mem_mb,
    }  # fmt: skip


def opened(folder: str, run_id: str, tell: Tell) -> Scalars | None:
    """Curves of a run; None where none are wanted or tensorboardX is not installed.

    Args:
        folder: with a place for the run's id; empty for none.
        run_id: a run that is taken over writes its curves again from the start, in the place of the former file.
        tell: told what is missing.
    """
    if not folder:
        return None
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        said = "Nothing is written for TensorBoard: install it with `pip install 'gpurent[tensorboard]'`."
        tell(Notice(said, warning=True))
        return None
    place = Path(folder.replace(RUN, run_id))
    try:
        for former in place.glob("events.out.tfevents.*"):
            former.unlink()
        place.mkdir(parents=True, exist_ok=True)
        writer = SummaryWriter(str(place), flush_secs=FLUSH_S)
    except OSError as error:
        tell(Notice(f"Nothing is written for TensorBoard: {error}", warning=True))
        return None
    tell(Notice(f"Curves for TensorBoard: {place}"))
    return Scalars(writer, tell)
