"""Watching a training learn: looks at held-out pictures, the best of them, words of advice, sample pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch

from gpurent_engine import checkpoint, drawing, prompts, validation, verdicts
from gpurent_engine.device import out_of_memory
from gpurent_engine.events import EventWriter
from gpurent_engine.filenames import sample_name
from gpurent_engine.spec import Sample
from gpurent_engine.verdicts import Look, Verdict

if TYPE_CHECKING:
    from gpurent_engine.setup import Run

EFFECT_AT = 50
"""Optimiser steps after which it is asked whether the LoRA does anything."""
EFFECT_TIMES = (200, 800)
FOLDER = "sample"


@dataclass
class Watched:
    """What has been seen so far; a state keeps it, so that a resumed run judges as if it had never stopped."""

    looks: list[Look] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """Adapters of the best look, on the CPU, by their names in a LoRA file."""


class Watcher:
    """Looks when it is due, and says what it sees."""

    def __init__(self, run: Run, out: EventWriter) -> None:
        self._run = run
        self._out = out
        self._said: set[str] = set()
        self._before: float | None = None
        """Loss of the question for ``no_effect`` before the first step."""

    def begin(self) -> None:
        """Before the first step of a run that was not resumed: how the base itself does. The first process looks for
        all."""
        if self._run.position.step or not self._run.group.first:
            return
        self._before = self._question()
        if self._run.held is not None:
            self._look()

    def after_step(self) -> None:
        """Look, if it is time to."""
        run = self._run
        if not run.group.first:
            return
        step, ended = run.position.step, run.position.batch == 0
        if step == EFFECT_AT and self._before is not None and verdicts.without_effect(self._before, self._question()):
            self.say(verdicts.NO_EFFECT)
        if run.held is not None and validation.due(run.order.spec, step, run.epoch, ended=ended):
            self._look()

    def enough(self) -> bool:
        """Whether to stop early."""
        spec = self._run.order.spec
        return verdicts.enough(self._run.watched.looks, spec.early_stopping_patience, spec.early_stopping_threshold)

    def say(self, verdict: Verdict) -> None:
        """Each kind once."""
        if verdict.kind not in self._said:
            self._said.add(verdict.kind)
            self._out.emit(
                "verdict", kind=verdict.kind, step=self._run.position.step, message=verdict.message,
                advice=verdict.advice,
            )  # fmt: skip

    def _question(self) -> float:
        """Loss of the first batch of pictures at two time steps, the same each time."""
        run = self._run
        batches = list(islice(run.feed.exam(EFFECT_TIMES, 1), len(EFFECT_TIMES)))
        return float(torch.stack([run.stepper.examine([one])[0] for one in batches]).mean())

    def _look(self) -> None:
        run, watched = self._run, self._run.watched
        assert run.held is not None
        found = validation.loss(run.held, run.stepper)
        before = verdicts.best(watched.looks)
        watched.looks.append(Look(run.position.step, run.epoch, found))
        better = verdicts.best(watched.looks) != before
        if better:
            # a copy, for the adapters go on changing
            watched.best = {name: one.detach().to("cpu", copy=True) for name, one in run.stepper.adapters().items()}
        self._out.emit(
            "validation", step=run.position.step, epoch=run.epoch, loss=found, images=len(run.held.images), best=better
        )
        verdict = verdicts.judged(watched.looks)
        if verdict is not None:
            self.say(verdict)


def best_elsewhere(run: Run) -> tuple[Look, Mapping[str, torch.Tensor]] | None:
    """The best look and its adapters, where that was not the last step."""
    look = verdicts.best(run.watched.looks)
    if look is None or not run.watched.best or look.step == run.position.step:
        return None
    return look, run.watched.best


class Painter:
    """Draws the sample pictures of a run. What goes wrong costs pictures, never the training."""

    def __init__(self, run: Run, out: EventWriter) -> None:
        self._run = run
        self._out = out
        self._given_up = False

    def due(self) -> bool:
        """Whether it is time to draw."""
        run = self._run
        step, ended = run.position.step, run.position.batch == 0
        return run.group.first and not self._given_up and prompts.due(run.order.spec, step, run.epoch, ended=ended)

    def draw(self) -> None:
        """Draw one picture for each prompt, save it, say so."""
        run = self._run
        where = run.parts.vae.device
        self._out.emit("phase", name="sample")
        try:
            for index, sample in enumerate(run.order.spec.samples):
                self._save(index, sample, self._picture(sample))
        except Exception as error:  # noqa: BLE001 - see the class
            self._given_up = True
            said = "there was not enough memory" if out_of_memory(error) else f"{type(error).__name__}: {error}"
            self._out.emit(
                "warning", key="sample_prompts", message=f"No more sample pictures are drawn: {said}. Training goes on."
            )
        finally:
            run.parts.vae.to(where)
        self._out.emit("phase", name="train")

    def _picture(self, sample: Sample) -> torch.Tensor:
        run = self._run
        schedule = drawing.scheduler(
            sample.sampler, run.parts.alphas_cumprod, run.diffusion.prediction,
            zero_terminal=bool(run.diffusion.signal[-1] == 0),
        )  # fmt: skip
        latent = drawing.latent(
            run.stepper, run.feed.conditioner, run.parts, schedule, sample=sample, device=run.device
        )
        try:
            return drawing.decoded(run.parts.vae, latent, run.device)
        except Exception as error:
            if not out_of_memory(error) or run.device.type == "cpu":
                raise
        torch.cuda.empty_cache()
        return drawing.decoded(run.parts.vae, latent, torch.device("cpu"))

    def _save(self, index: int, sample: Sample, picture: torch.Tensor) -> None:
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        run, spec = self._run, self._run.order.spec
        by_epoch = bool(spec.sample_every_n_epochs) or run.position.step == 0
        name = sample_name(spec.output_name, run.epoch if by_epoch else run.position.step, index, by_epoch=by_epoch)
        note = PngInfo()
        note.add_text(
            "parameters",
            f"{sample.prompt}\nNegative prompt: {sample.negative}\nSteps: {sample.steps}, Sampler: {sample.sampler}, "
            f"CFG scale: {sample.guidance:g}, Seed: {sample.seed}, Size: {sample.width}x{sample.height}",
        )
        data = io.BytesIO()
        bytes_of = (picture.nan_to_num() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(bytes_of).save(data, "PNG", pnginfo=note)
        written = checkpoint.write(run.order.out_dir / FOLDER, name, [data.getvalue()])
        self._out.emit(
            "sample", path=f"{FOLDER}/{name}", sha256=written.sha256, size=written.size, step=run.position.step,
            epoch=run.epoch, index=index, prompt=sample.prompt, seed=sample.seed,
        )  # fmt: skip
