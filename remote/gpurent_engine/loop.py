"""The training loop. ``setup.py`` says what comes before it, ``plain.py`` what happens inside a step.

Random numbers, so that anyone can repeat a run: a CPU generator seeded with ``seed`` initialises the adapters, those of
the UNet first, then those of each text encoder. Another with the same seed draws for each batch what ``feed.py`` lists.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch

from gpurent_engine import checkpoint, device, verdicts
from gpurent_engine.bases import Opener, opened
from gpurent_engine.checkpoint import Position
from gpurent_engine.distributed import ALONE, Group
from gpurent_engine.events import EventWriter
from gpurent_engine.filenames import final_name
from gpurent_engine.saving import Bystander, Saver
from gpurent_engine.setup import Order, Run, prepare, replan
from gpurent_engine.watching import Painter, Watcher

MAX_BAD_LOSSES = 3

__all__ = ["MAX_BAD_LOSSES", "NotANumber", "NothingLearnt", "Order", "Result", "train"]


class NotANumber(Exception):
    """The loss is NaN or infinite again and again."""


class NothingLearnt(Exception):
    """The training has come to its end and its LoRA changes nothing."""


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    steps: int
    stopped: bool
    files: list[str]
    final_loss: float


def train(
    order: Order,
    out: EventWriter,
    stop: threading.Event,
    group: Group = ALONE,
    *,
    opener: Opener = opened,
) -> Result:
    """Train one LoRA and return what came of it; everything on the way is said through ``out``.

    Args:
        order: what to train.
        out: of the first process; another one's is read only if it fails.
        stop: asks for an end.
        group: the processes that train it together.
        opener: reads the base model; one that keeps it hands out copies.

    Raises:
        DataError, SpecError: dataset or configuration cannot be trained on.
        NotANumber, NotFinite: the training diverged.
        NothingLearnt: the finished file, which is there, changes nothing.
        ModelError: the base model cannot be loaded.
        StateMismatch: the saved state belongs to another run.
        OSError: a file cannot be written.
        torch.cuda.OutOfMemoryError: the GPU is too small for this batch.
    """
    started = time.monotonic()
    return follow(prepare(order, out, group, opener=opener), out, stop, started)


def follow(run: Run, out: EventWriter, stop: threading.Event, started: float) -> Result:
    """Take a prepared run to its end; raises as ``train``."""
    saver = Saver(run, out) if run.group.first else Bystander()
    try:
        return _steps(run, out, saver, stop, started=started)
    except NothingLearnt:
        raise
    except Exception:
        saver.rescue()  # what was learnt so far is paid for
        raise


def _steps(run: Run, out: EventWriter, saver: Saver | Bystander, stop: threading.Event, *, started: float) -> Result:
    order, spec = run.order, run.order.spec
    meter = Meter(run.position.step)
    watcher, painter = Watcher(run, out), Painter(run, out)
    step, stopped, early = run.position.step, False, False
    ending, rates = False, list[float]()
    out.emit("phase", name="train")
    replan(run, out, step)
    watcher.begin()
    if not step and painter.due():
        painter.draw()

    for draw in run.feed.steps(run.position) if step < run.course.length.steps else ():
        rates = run.course.rates(step)
        # Forward, loss, backward, clipping and the optimiser. On a GPU this only queues the work and returns at once:
        # nothing here may ask for a value that is computed there, except in ``meter.fetch``.
        meter.pending.append(run.stepper.step(draw.batches, rates))
        step += 1
        run.position, run.epoch = Position(step, *draw.after), draw.epoch + 1
        run.randomness = run.feed.generator.get_state()

        stopped = stop.is_set() or (order.stop_file is not None and order.stop_file.exists())
        stopped = stopped or (order.stop_at is not None and step >= order.stop_at)
        stopped = bool(*run.group.agree(stopped))
        replan(run, out, step)
        ending = stopped or step >= run.course.length.steps
        if out.step_due(step, run.course.length.steps) or ending:
            meter.fetch(run)
            report(run, out, meter, rates)
            if meter.bad:
                watcher.say(verdicts.NAN)
            if meter.bad >= MAX_BAD_LOSSES:
                raise NotANumber(f"the loss is not a number at step {step}")
        watcher.after_step()
        if painter.due() and not stopped:  # who stops early is short of time
            painter.draw()
        early = step < run.course.length.steps and watcher.enough()
        if spec.early_stopping_patience:
            early = bool(*run.group.agree(early))
        if early and not ending:
            meter.fetch(run)
            report(run, out, meter, rates)
        if early or ending:
            break

        if spec.save_every_n_steps and step % spec.save_every_n_steps == 0:
            meter.fetch(run)
            saver.checkpoint(checkpoint.step_name(spec.output_name, step))
        if run.position.batch == 0 and spec.save_every_n_epochs and run.epoch % spec.save_every_n_epochs == 0:
            meter.fetch(run)
            saver.checkpoint(checkpoint.epoch_name(spec.output_name, run.epoch))
        if saver.state_due():
            meter.fetch(run)
            if not meter.bad:  # a state that holds NaN would take the place of the last good one
                saver.start_state()
        saver.announce_state()

    stopped = stopped and step < run.course.length.steps and not early
    if early:
        tell_early(run, out)
    else:
        saver.best()
    name = checkpoint.step_name(spec.output_name, step) if stopped else final_name(spec.output_name)
    saver.checkpoint(name, final=not stopped, best=early)
    # who stops early is short of time; and drawing changes the base, which others still train on
    proven = saver.prove(draw=not stopped and not run.packed)
    final = mean(run.losses)
    if not stopped and (final == 0 or (proven is not None and proven.nothing)):
        why = "the loss was 0 throughout" if final == 0 else "all of its layers are zero"
        raise NothingLearnt(f"The LoRA changes nothing: {why}.")
    out.emit("phase", name="done")
    out.emit(
        "done", steps=step, elapsed_s=time.monotonic() - started, stopped=stopped, files=saver.files, final_loss=final
    )
    return Result(step, stopped, saver.files, final)


@dataclass
class Meter:
    """Losses on their way from the device, and the clock of the run."""

    first_step: int
    begun: float = field(default_factory=time.monotonic)
    pending: list[torch.Tensor] = field(default_factory=list)
    bad: int = 0
    """How many of the last losses are not finite."""

    def fetch(self, run: Run) -> None:
        """Bring losses over from the device: the loop's only wait for it."""
        fresh: list[float] = torch.cat(self.pending).tolist() if self.pending else []
        self.pending.clear()
        run.losses.extend(fresh)
        for one in fresh:
            self.bad = 0 if math.isfinite(one) else self.bad + 1


def tell_early(run: Run, out: EventWriter) -> None:
    """Say why the training ends before its time, and with which weights."""
    best = verdicts.best(run.watched.looks)
    out.emit(
        "early_stop", step=run.position.step, total=run.course.length.steps,
        best_step=run.position.step if best is None else best.step, best_loss=None if best is None else best.loss,
    )  # fmt: skip


def report(run: Run, out: EventWriter, meter: Meter, rates: Sequence[float]) -> None:
    """Say how far the run is; ``avg_loss`` is the mean over the last epoch's length, as kohya shows it."""
    elapsed = max(1e-9, time.monotonic() - meter.begun)
    step = run.position.step
    rate = (step - meter.first_step) / elapsed
    spec, length = run.order.spec, run.course.length
    out.emit(
        "step", step=step, total=length.steps, epoch=run.epoch, epochs=length.epochs, loss=run.losses[-1],
        avg_loss=mean(run.losses), lr=rates[0], it_s=rate,
        images_s=rate * spec.train_batch_size * spec.gradient_accumulation_steps,
        peak_mem_mb=device.peak_memory_mb(run.device), elapsed_s=elapsed,
    )  # fmt: skip


def mean(losses: Collection[float]) -> float:
    """NaN for none."""
    return sum(losses) / len(losses) if losses else math.nan
