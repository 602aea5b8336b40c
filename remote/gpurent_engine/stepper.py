"""The seam between the loop and how a step is computed.

The loop draws everything random and hands it over as tensors; a stepper turns micro-batches into one optimiser step.
``plain.py`` is the reference: torch, peft, autocast, nothing clever. Faster ones must give the same losses and the same
adapters from the same batches.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch

from gpurent_engine.device import out_of_memory
from gpurent_engine.text import TextInput


@dataclass(frozen=True)
class Batch:
    """One micro-batch, completely drawn, on the device. ``b`` pictures of one bucket, ``h × w`` latent pixels.

    The noisy latent is ``noised((mean + std · jitter) · vae_scale, noise, times)``.
    """

    mean: torch.Tensor
    """Of the VAE's posterior, float32 ``[b, 4, h, w]``, not scaled."""
    std: torch.Tensor
    """Its standard deviation, likewise."""
    jitter: torch.Tensor
    """Standard normal ``[b, 4, h, w]``: which sample of the posterior this step sees."""
    noise: torch.Tensor
    """What is added and what is predicted, ``[b, 4, h, w]``; offsets and pyramids are in it already."""
    times: torch.Tensor
    """Time steps, int64 ``[b]``."""
    weight: torch.Tensor
    """Of each picture in the loss, float32 ``[b]``: min-SNR and its like, prior loss weight."""
    text: TextInput
    sizes: torch.Tensor | None = None
    """SDXL: original height, width, crop top, left, target height, width, float32 ``[b, 6]``."""
    added: torch.Tensor | None = None
    """What is added where it is not ``noise`` itself (input perturbation), ``[b, 4, h, w]``."""
    mask: torch.Tensor | None = None
    """How much each place counts in the loss, float32 ``[b, 1, h, w]``, 0 to 1."""
    seed: int = 0
    """For what is random inside the network (dropout), drawn from the run's generator so that resuming is exact."""


@dataclass(frozen=True)
class StepperState:
    """All that the next step depends on, by names that every stepper of the same network shares.

    ``parameter.<key>`` is a float32 master, ``optimizer.<key>.<name>`` what the optimiser keeps for it; ``<key>`` is
    the tensor's name in the LoRA file. ``scalars`` is JSON-ready.
    """

    tensors: dict[str, torch.Tensor]
    scalars: dict[str, Any] = field(default_factory=dict)


class NoMemory(MemoryError):
    """A micro-batch needs more memory than the device has."""


@contextmanager
def undoing(undo: Callable[[], None]) -> Iterator[None]:
    """Raise ``NoMemory`` where memory runs out inside, after ``undo``."""
    said = ""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        said = str(error) or "out of memory"
        traceback.clear_frames(error.__traceback__)  # they hold the activations
    if said:
        undo()
        raise NoMemory(said)


class Stepper(Protocol):
    """Computes optimiser steps and owns the adapters and the optimiser."""

    def step(self, batches: Sequence[Batch], rates: Sequence[float]) -> torch.Tensor:
        """Forward and backward over all micro-batches, clip, one optimiser step.

        Args:
            batches: gathered into this step; the gradient is the mean over them.
            rates: learning rate of each group of the network's plan.

        Raises:
            NoMemory: a micro-batch does not fit. Nothing has changed, and the step can be taken in smaller ones.

        Returns:
            Loss of each micro-batch, float32 ``[len(batches)]``, on the device: asking for its value waits for the GPU,
            so the loop does it seldom.
        """
        ...

    def examine(self, batches: Sequence[Batch]) -> torch.Tensor:
        """Losses as ``step`` gives them, with nothing learnt and nothing changed.

        Raises:
            NoMemory: a micro-batch does not fit.
        """
        ...

    def rehearse(self, batches: Sequence[Batch]) -> None:
        """Compute the gradients of a step and forget them: to see whether it fits.

        Raises:
            NoMemory: a micro-batch does not fit.
        """
        ...

    def predict(
        self, noisy: torch.Tensor, times: torch.Tensor, text: TextInput, sizes: torch.Tensor | None
    ) -> torch.Tensor:
        """What the UNet says with the adapters as they are judged, for drawing pictures; no gradients.

        Args:
            noisy: float32 ``[b, 4, h, w]``.
            times: int64 ``[b]``.
            text: of ``b`` captions.
            sizes: as in ``Batch``.
        """
        ...

    def lighten(self) -> str:
        """Need less memory from now on, at the price of time.

        Returns:
            What is done for it, for the user; "" if nothing more can be done.
        """
        ...

    def adapters(self) -> Mapping[str, torch.Tensor]:
        """Trained tensors by their names in a LoRA file, float32: ``lora_unet_….lora_down.weight`` and so on."""
        ...

    def state(self) -> StepperState:
        """Everything needed to go on exactly from here."""
        ...

    def restore(self, state: StepperState) -> None:
        """Put a state back.

        Raises:
            KeyError: it lacks a tensor, so it belongs to another network.
        """

    def release(self) -> None:
        """Take the adapters out: the base's modules are as they were loaded. Nothing else may be called afterwards."""


S = TypeVar("S", bound="Stepper")


class PassingOn(Generic[S]):
    """What steppers around another have in common: what they do not change, the inner one does."""

    inner: S

    def examine(self, batches: Sequence[Batch]) -> torch.Tensor:
        """See ``Stepper.examine``."""
        return self.inner.examine(batches)

    def predict(
        self, noisy: torch.Tensor, times: torch.Tensor, text: TextInput, sizes: torch.Tensor | None
    ) -> torch.Tensor:
        """See ``Stepper.predict``."""
        return self.inner.predict(noisy, times, text, sizes)

    def lighten(self) -> str:
        """See ``Stepper.lighten``."""
        return self.inner.lighten()

    def adapters(self) -> Mapping[str, torch.Tensor]:
        """See ``Stepper.adapters``."""
        return self.inner.adapters()

    def state(self) -> StepperState:
        """See ``Stepper.state``."""
        return self.inner.state()

    def restore(self, state: StepperState) -> None:
        """See ``Stepper.restore``."""
        self.inner.restore(state)

    def release(self) -> None:
        """See ``Stepper.release``."""
        self.inner.release()
