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

from gpurent_engine import checkpoint, device, export
from gpurent_engine.checkpoint import Position
from gpurent_engine.events import EventWriter
from gpurent_engine.setup import Order, Run, prepare, replan

MAX_BAD_LOSSES = 3

__all__ = ["MAX_BAD_LOSSES", "NotANumber", "Order", "Result", "train"]


class NotANumber(Exception):
    """The loss is NaN or infinite again and again."""


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    steps: int
    stopped: bool
    files: list[str]
    final_loss: float


def train(order: Order, out: EventWriter, stop: threading.Event) -> Result:
    """Train one LoRA and return what came of it; everything on the way is said through ``out``.

    Raises:
        DataError, SpecError: dataset or configuration cannot be trained on.
        NotANumber, NotFinite: the training diverged.
        ModelError: the base model cannot be loaded.
        StateMismatch: the saved state belongs to another run.
        OSError: a file cannot be written.
        torch.cuda.OutOfMemoryError: the GPU is too small for this batch.
    """
    started = time.monotonic()
    run = prepare(order, out)
    spec, files = order.spec, list[str]()
    meter = Meter(run.position.step)
    out.emit("phase", name="train")
    replan(run, out, run.position.step)
    step, stopped = run.position.step, False

    for draw in run.feed.steps(run.position) if step < run.course.length.steps else ():
        rates = run.course.rates(step)
        # Forward, loss, backward, clipping and the optimiser: on a GPU this only queues the work and returns at once.
        meter.pending.append(run.stepper.step(draw.batches, rates))
        step += 1
        run.position = Position(step, *draw.after)

        stopped = stop.is_set() or (order.stop_file is not None and order.stop_file.exists())
        replan(run, out, step)
        ending = stopped or step >= run.course.length.steps
        if out.step_due(step, run.course.length.steps) or ending:
            meter.fetch(run)
            report(run, out, meter, draw.epoch, rates)
            if meter.bad >= MAX_BAD_LOSSES:
                raise NotANumber(f"the loss is not a number at step {step}")
        if ending:
            break

        if spec.save_every_n_steps and step % spec.save_every_n_steps == 0:
            meter.fetch(run)
            files.append(keep(run, out, checkpoint.step_name(spec.output_name, step), draw.epoch))
        epoch, batch = draw.after
        if batch == 0 and spec.save_every_n_epochs and epoch % spec.save_every_n_epochs == 0:
            meter.fetch(run)
            files.append(keep(run, out, checkpoint.epoch_name(spec.output_name, epoch), epoch))

    stopped = stopped and step < run.course.length.steps
    name = checkpoint.step_name(spec.output_name, step) if stopped else f"{spec.output_name}.safetensors"
    files.append(keep(run, out, name, run.position.epoch, final=not stopped))
    final = mean(run.losses)
    out.emit("phase", name="done")
    out.emit("done", steps=step, elapsed_s=time.monotonic() - started, stopped=stopped, files=files, final_loss=final)
    return Result(step, stopped, files, final)


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


def report(run: Run, out: EventWriter, meter: Meter, epoch: int, rates: Sequence[float]) -> None:
    """Say how far the run is; ``avg_loss`` is the mean over the last epoch's length, as kohya shows it."""
    elapsed = max(1e-9, time.monotonic() - meter.begun)
    step = run.position.step
    rate = (step - meter.first_step) / elapsed
    spec, length = run.order.spec, run.course.length
    out.emit(
        "step", step=step, total=length.steps, epoch=epoch + 1, epochs=length.epochs, loss=run.losses[-1],
        avg_loss=mean(run.losses), lr=rates[0], it_s=rate,
        images_s=rate * spec.train_batch_size * spec.gradient_accumulation_steps,
        peak_mem_mb=device.peak_memory_mb(run.device), elapsed_s=elapsed,
    )  # fmt: skip


def mean(losses: Collection[float]) -> float:
    """NaN for none."""
    return sum(losses) / len(losses) if losses else math.nan


def keep(run: Run, out: EventWriter, name: str, epoch: int, *, final: bool = False) -> str:
    """Write LoRA and resumable state; only then say so."""
    out.emit("phase", name="save")
    spec, now, step = run.order.spec, time.time(), run.position.step
    alphas = {layer.key: layer.alpha for layer in run.plan.layers}
    found = export.tensors(run.stepper.adapters(), alphas, spec.save_precision)
    written = checkpoint.write(
        run.order.out_dir, name, export.serialise(found, spec, run.facts, step=step, epoch=epoch, finished_at=now)
    )
    out.emit("checkpoint", path=name, sha256=written.sha256, size=written.size, epoch=epoch, step=step, final=final)
    state = checkpoint.save_state(
        run.order.out_dir, run.stepper.state(), run.feed.generator, run.position, run.fingerprint, list(run.losses)
    )
    out.emit("state", path=state.path, sha256=state.sha256, size=state.size, epoch=epoch, step=step)
    if not final:
        out.emit("phase", name="train")
    return name
