"""Writes what a run has learnt: LoRA files, states, and, when it fails, whatever is still good."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping

import torch

from gpurent_engine import checkpoint, export, proof, states
from gpurent_engine.events import EventWriter
from gpurent_engine.filenames import best_name
from gpurent_engine.setup import Run
from gpurent_engine.states import Keeper
from gpurent_engine.watching import best_elsewhere

PROOF_SIDE = 512
"""Pixels of the picture that the proof draws at most: enough to tell a change, and a second of a GPU."""


class Saver:
    """Saves for one run and says so; a file is announced when it is complete on disk."""

    def __init__(self, run: Run, out: EventWriter) -> None:
        self._run = run
        self._out = out
        self._keeper = Keeper(run.order.out_dir, run.order.spec.save_state_every_n_minutes)
        self._keeper.begin(run.position.step)
        self.files: list[str] = []
        self._written: Mapping[str, torch.Tensor] = {}
        """Adapters in the last file."""

    def checkpoint(self, name: str, *, final: bool = False, best: bool = False) -> None:
        """Write LoRA and resumable state; only then say so. ``best``: of the best look, not as it stands."""
        run, out = self._run, self._out
        out.emit("phase", name="save")
        adapters, step, epoch = run.stepper.adapters(), run.position.step, run.epoch
        elsewhere = best_elsewhere(run) if best else None
        if elsewhere is not None:
            look, adapters = elsewhere
            step, epoch = look.step, look.epoch
        self._written = adapters
        self._write_lora(name, adapters, step, epoch, final=final)
        self.start_state()
        self.announce_state(wait=True)
        if not final:
            out.emit("phase", name="train")

    def best(self) -> None:
        """Write the LoRA of the best look at held-out pictures, where it is not the one that ends the run."""
        found = best_elsewhere(self._run)
        name = best_name(self._run.order.spec.output_name)
        if found is not None and name not in self.files:
            look, adapters = found
            self._write_lora(name, adapters, look.step, look.epoch, final=False)

    def prove(self, *, draw: bool) -> proof.Proof | None:
        """Read the last file again, compare it with what was trained and, if wished, with the base; say what is found.

        The file is complete and announced: a failure in here costs the proof and nothing else.
        """
        run, out, spec = self._run, self._out, self._run.order.spec
        out.emit("phase", name="prove")
        try:
            trained = {name: one.detach().cpu() for name, one in self._written.items()}
            run.stepper.release()
            found = proof.prove(
                run.parts, run.plan, run.diffusion, run.order.out_dir / self.files[-1], trained=trained,
                prompt=run.feed.dataset.images[0].caption, side=min(*run.feed.placements[0].bucket, PROOF_SIDE),
                clip_skip=spec.clip_skip, draw=draw,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - see above
            self._warn(f"The file could not be proven ({type(error).__name__}: {error}).")
            return None
        out.emit("proof", **found.fields())
        for problem in found.problems:
            self._warn(problem)
        return found

    def _write_lora(
        self, name: str, adapters: Mapping[str, torch.Tensor], step: int, epoch: int, *, final: bool
    ) -> None:  # fmt: skip
        run, spec = self._run, self._run.order.spec
        alphas = run.plan.alphas(adapters.keys())
        found = export.tensors(adapters, alphas, spec.save_precision)
        data = export.serialise(found, spec, run.facts, step=step, epoch=epoch, finished_at=time.time())
        try:
            written = checkpoint.write(run.order.out_dir, name, [data])
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._drop_state():
                raise
            written = checkpoint.write(run.order.out_dir, name, [data])
        self.files.append(name)
        self._out.emit(
            "checkpoint", path=name, sha256=written.sha256, size=written.size, epoch=epoch, step=step, final=final
        )

    def _drop_state(self) -> bool:
        """A full disk: the LoRA is worth more than the means to go on."""
        file = self._run.order.out_dir / states.FILE
        if not file.exists():
            return False
        file.unlink()
        self._warn("The disk is full: the resumable state was removed to save the LoRA.")
        return True

    def state_due(self) -> bool:
        """Whether it is time for a state beside the checkpoints."""
        return self._keeper.due(self._run.position.step, self._run.course.length.steps)

    def start_state(self) -> None:
        """Copy the state off the device and write it beside the training."""
        run = self._run
        self._keeper.start(
            states.take(
                run.stepper.state(),
                run.randomness,
                run.position,
                run.course.length,
                losses=list(run.losses),
                belongs_to=run.identity,
                looks=run.watched.looks,
                best=run.watched.best,
            )
        )

    def announce_state(self, *, wait: bool = False) -> None:
        """Say that a state is complete; one that could not be written is a warning, for the training can go on."""
        try:
            done = self._keeper.finished(wait=wait)
        except OSError as error:
            self._warn(f"The resumable state could not be written ({error}); an earlier one, if any, is kept.")
            return
        if done is not None:
            written, position = done
            epoch = position.epoch + bool(position.batch)
            self._out.emit(
                "state", path=written.path, sha256=written.sha256, size=written.size, epoch=epoch, step=position.step
            )

    def rescue(self) -> None:
        """Save what a failed run has learnt: from memory if it is sound there, else from the last state on disk."""
        run = self._run
        name = checkpoint.step_name(run.order.spec.output_name, run.position.step)
        try:
            self.announce_state(wait=True)
            if run.position.step and name not in self.files:
                self._rescue(name)
            self.best()
        except Exception as second:  # noqa: BLE001 - the first error is the one to report
            self._warn(f"Nothing could be saved after the failure ({type(second).__name__}: {second}).")

    def _rescue(self, name: str) -> None:
        run = self._run
        try:
            self._write_lora(name, run.stepper.adapters(), run.position.step, run.epoch, final=False)
            self.start_state()  # going on with a smaller batch loses nothing
            self.announce_state(wait=True)
        except (export.NotFinite, RuntimeError):  # the weights are spoiled, or the GPU no longer answers
            if not (run.order.out_dir / states.FILE).exists():
                raise
            saved = states.load(run.order.out_dir)
            position = saved.position
            prefix = "parameter."
            adapters = {
                key.removeprefix(prefix): one for key, one in saved.stepper.tensors.items() if key.startswith(prefix)
            }
            name = checkpoint.step_name(run.order.spec.output_name, position.step)
            if name not in self.files:
                epoch = position.epoch + bool(position.batch)
                self._write_lora(name, adapters, position.step, epoch, final=False)

    def _warn(self, message: str) -> None:
        self._out.emit("warning", key="save", message=message)


class Bystander:
    """Of a process that is not the first: it has the same adapters, and saves nothing."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def checkpoint(self, name: str, *, final: bool = False, best: bool = False) -> None:
        """See ``Saver``, as for the rest."""

    def best(self) -> None:
        """Nothing."""

    def prove(self, *, draw: bool) -> None:
        """Nothing."""

    def state_due(self) -> bool:
        """Never."""
        return False

    def start_state(self) -> None:
        """Nothing."""

    def announce_state(self, *, wait: bool = False) -> None:
        """Nothing."""

    def rescue(self) -> None:
        """Nothing."""
