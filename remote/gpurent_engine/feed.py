"""From dataset to drawn batches. Everything random of a step is drawn here, in a fixed order, from one CPU generator.

Order of draws for each micro-batch: posterior jitter, diffusion noise, [noise offset,] time steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from gpurent_engine import buckets, captions, device
from gpurent_engine.buckets import Placement
from gpurent_engine.checkpoint import Position
from gpurent_engine.data import Dataset, ImageItem
from gpurent_engine.diffusion import Diffusion
from gpurent_engine.latents import Posterior
from gpurent_engine.spec import TrainSpec
from gpurent_engine.stepper import Batch
from gpurent_engine.text import Conditioner


@dataclass(frozen=True)
class Draw:
    """What one optimiser step is computed from, and where in the dataset the run stands after it."""

    batches: tuple[Batch, ...]
    epoch: int
    """0-based epoch that the step belongs to."""
    after: tuple[int, int]
    """Epoch and batch at which the next step begins."""


@dataclass
class Feed:
    """Draws the steps of a run. ``generator`` holds the only random state."""

    spec: TrainSpec
    dataset: Dataset
    placements: tuple[Placement, ...]
    posteriors: Sequence[Posterior]
    conditioner: Conditioner
    diffusion: Diffusion
    generator: torch.Generator
    device: torch.device
    sized: bool
    """Whether the base wants sizes (SDXL)."""

    def steps(self, start: Position) -> Iterator[Draw]:
        """Steps from ``start`` on, without end: the loop knows when to stop. Nothing is drawn ahead of its step, so
        that a saved generator is where the saved step is."""
        epoch, first = start.epoch, start.batch
        gather = self.spec.gradient_accumulation_steps
        while True:
            batches = buckets.epoch_batches(
                [one.bucket for one in self.placements], self.dataset.repeats, self.spec.train_batch_size,
                self.spec.seed, epoch,
            )  # fmt: skip
            for index in range(first, len(batches), gather):
                chosen = batches[index : index + gather]  # the last step of an epoch may gather fewer
                after = index + len(chosen)
                yield Draw(
                    tuple(self._batch(members, epoch, index + k) for k, members in enumerate(chosen)),
                    epoch,
                    (epoch, after) if after < len(batches) else (epoch + 1, 0),
                )
            epoch, first = epoch + 1, 0

    def _batch(self, members: Sequence[int], epoch: int, index: int) -> Batch:
        spec, draw = self.spec, self.generator
        mean = torch.stack([self.posteriors[i].mean for i in members])
        std = torch.stack([self.posteriors[i].std for i in members])
        jitter = torch.randn(mean.shape, generator=draw)
        noise = torch.randn(mean.shape, generator=draw)
        if spec.noise_offset:
            # "Diffusion With Offset Noise", crosslabs.org 2023: shift whole channels, so that brightness is learnt too
            noise = noise + spec.noise_offset * torch.randn((*mean.shape[:2], 1, 1), generator=draw)
        times = torch.randint(0, self.diffusion.steps, (len(members),), generator=draw)
        images = self.dataset.images
        words = [
            captions.draw(images[i].caption, spec, epoch, index * spec.train_batch_size + k)
            for k, i in enumerate(members)
        ]
        on_device = device.sent(times, self.device)
        weight = torch.ones(len(members), device=self.device)
        if spec.min_snr_gamma is not None:
            weight = weight * self.diffusion.min_snr(on_device, spec.min_snr_gamma)
        return Batch(
            mean=mean, std=std, jitter=device.sent(jitter, self.device), noise=device.sent(noise, self.device),
            times=on_device, weight=weight, text=self.conditioner(words),
            sizes=self._sizes(members) if self.sized else None,
        )  # fmt: skip

    def _sizes(self, members: Sequence[int]) -> torch.Tensor:
        kohyas = self.spec.sdxl_crop_coordinates == "kohya"
        rows = [size_row(self.dataset.images[i], self.placements[i], kohyas=kohyas) for i in members]
        return device.sent(torch.tensor(rows, dtype=torch.float32), self.device)


def size_row(image: ImageItem, placement: Placement, *, kohyas: bool = False) -> list[int]:
    """SDXL's size conditioning: original height and width, top and left of the crop, height and width of the bucket."""
    width, height = placement.bucket
    left, top = buckets.kohya_crop((image.width, image.height), placement.bucket) if kohyas else placement.crop
    return [image.height, image.width, top, left, height, width]
