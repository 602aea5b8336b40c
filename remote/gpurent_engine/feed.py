"""From dataset to drawn batches. Everything random of a step is drawn here, in a fixed order, from one CPU generator.

Order of draws for each micro-batch: posterior jitter, noise (see ``noise.draw``), time steps, [seed of dropouts].
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from gpurent_engine import augment, buckets, captions, device, noise, objective
from gpurent_engine.buckets import Placement
from gpurent_engine.checkpoint import Position
from gpurent_engine.data import Dataset, ImageItem
from gpurent_engine.diffusion import Diffusion
from gpurent_engine.latents import Posterior
from gpurent_engine.live import LiveEncoder, Shown
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
    vae_scale: float = 1.0
    steps_in_all: int = 0
    random_network: bool = False
    """Whether the network itself draws (dropouts)."""
    encoder: LiveEncoder | None = None
    """For pictures whose crop or colours are drawn again each time."""
    bins: list[buckets.Bin] = field(init=False)
    repeats: tuple[int, ...] = field(init=False)
    images: tuple[ImageItem, ...] = field(init=False)
    specs: tuple[TrainSpec, ...] = field(init=False)
    prior: torch.Tensor = field(init=False)
    """Weight of each picture in the loss, before its time step."""

    def __post_init__(self) -> None:
        spec, found = self.spec, self.dataset
        self.bins = buckets.bins(self.placements, found.kinds, spec)
        self.repeats, self.images = found.repeats, found.images
        self.specs = tuple(spec.of(folder.settings) for folder in found.owners)
        self.prior = torch.tensor([spec.prior_loss_weight if one.regular else 1.0 for one in found.owners])

    def steps(self, start: Position) -> Iterator[Draw]:
        """Steps from ``start`` on, without end: the loop knows when to stop. Nothing is drawn ahead of its step, so
        that a saved generator is where the saved step is."""
        epoch, first = start.epoch, start.batch
        gather, step = self.spec.gradient_accumulation_steps, start.step
        while True:
            batches = buckets.epoch_batches(self.bins, self.repeats, self.spec.seed, epoch)
            for index in range(first, len(batches), gather):
                chosen = batches[index : index + gather]  # the last step of an epoch may gather fewer
                after = index + len(chosen)
                yield Draw(
                    tuple(self._batch(members, epoch, index + k, step) for k, members in enumerate(chosen)),
                    epoch,
                    (epoch, after) if after < len(batches) else (epoch + 1, 0),
                )
                step += 1
            epoch, first = epoch + 1, 0

    def _batch(self, members: Sequence[int], epoch: int, index: int, step: int) -> Batch:
        place = index * max(one[-1] for one in self.bins)
        chosen = self._views(members, epoch, place)
        words = [
            captions.draw(self.images[i].caption, self.specs[i], epoch, place + k, step=step, steps=self.steps_in_all)
            for k, i in enumerate(members)
        ]
        return self._drawn(members, chosen, words, self.generator)

    def _drawn(
        self, members: Sequence[int], chosen: Sequence[Posterior], words: Sequence[str], draw: torch.Generator,
        *, times: torch.Tensor | None = None,
    ) -> Batch:  # fmt: skip
        """A batch of these views and captions; time steps are drawn where none are given."""
        spec = self.spec
        mean = torch.stack([one.mean for one in chosen])
        std = torch.stack([one.std for one in chosen])
        jitter = torch.randn(mean.shape, generator=draw)
        # noise may depend on the latent itself (adaptive_noise_scale); it is drawn on the CPU
        clean = (mean.cpu() + std.cpu() * jitter) * self.vae_scale if spec.adaptive_noise_scale else jitter
        drawn = noise.draw(clean, spec, draw)
        if times is None:
            times = torch.randint(spec.min_timestep, spec.max_timestep, (len(members),), generator=draw)
        on_device, prior = device.sent(times, self.device), device.sent(self.prior[list(members)], self.device)
        masks = [one.mask for one in chosen]
        mask = torch.stack([one for one in masks if one is not None]) if all(one is not None for one in masks) else None
        return Batch(
            mean=mean, std=std, jitter=device.sent(jitter, self.device), noise=device.sent(drawn.target, self.device),
            times=on_device, weight=objective.weights(on_device, self.diffusion, spec) * prior,
            text=self.conditioner(words), sizes=self._sizes(members, chosen) if self.sized else None,
            added=None if drawn.added is drawn.target else device.sent(drawn.added, self.device), mask=mask,
            seed=int(torch.randint(2**62, (), generator=draw)) if self.random_network else 0,
        )  # fmt: skip

    def exam(self, times: Sequence[int], most: int | None = None) -> Iterator[Batch]:
        """Every picture once at each of these time steps, unmirrored, with its whole caption; the same each time.

        Args:
            times: the time steps.
            most: batches of pictures at most.
        """
        spec = self.spec
        draw = torch.Generator().manual_seed(spec.seed if spec.validation_seed is None else spec.validation_seed)
        groups: dict[buckets.Bin, list[int]] = {}
        for index, one in enumerate(self.bins):
            groups.setdefault(one, []).append(index)
        batches = [
            group[at : at + one[-1]] for one, group in sorted(groups.items()) for at in range(0, len(group), one[-1])
        ]
        for members in batches[:most]:
            chosen = [self.posteriors[i] for i in members]
            words = [captions.whole(self.images[i].caption, self.specs[i]) for i in members]
            for time in times:
                drawn = torch.full((len(members),), time, dtype=torch.int64)
                yield self._drawn(members, chosen, words, draw, times=drawn)

    def largest(self) -> Batch | None:
        """A batch that needs as much memory as any of this training; None where all batches are of one size, so that
        the first one shows it."""
        if len(set(self.bins)) == 1:
            return None
        one = max(set(self.bins), key=lambda it: (it[1] * it[2] * it[3], it))
        members = ([index for index, other in enumerate(self.bins) if other == one] * one[-1])[: one[-1]]
        words = [captions.whole(self.images[i].caption, self.specs[i]) for i in members]
        return self._drawn(members, self._views(members, 0, 0), words, torch.Generator().manual_seed(0))

    def _views(self, members: Sequence[int], epoch: int, place: int) -> list[Posterior]:
        """Pictures as they are shown this time; ``place`` is that of the first in the epoch."""
        found: dict[int, Posterior] = {}
        shown: dict[int, Shown] = {}
        for k, index in enumerate(members):
            own, key = self.specs[index], f"{self.spec.seed}/{epoch}/{place + k}"
            mirrored = own.flip_aug and random.Random(f"flip/{key}").random() >= 0.5
            straight = self.posteriors[index]
            if self.encoder is not None and augment.live(own, self.images[index].path):
                shown[k] = Shown(self.images[index], self.placements[index], own, mirrored, f"augment/{key}")
            else:
                found[k] = straight.flipped if mirrored and straight.flipped is not None else straight
        if self.encoder is not None and shown:
            found |= zip(shown, self.encoder(list(shown.values())), strict=True)
        return [found[k] for k in range(len(members))]

    def _sizes(self, members: Sequence[int], chosen: Sequence[Posterior]) -> torch.Tensor:
        kohyas = self.spec.sdxl_crop_coordinates == "kohya"
        rows = [
            size_row(
                self.images[i], self.placements[i], kohyas=kohyas, mirrored=view is self.posteriors[i].flipped,
                drawn=view.crop,
            )
            for i, view in zip(members, chosen, strict=True)
        ]  # fmt: skip
        return device.sent(torch.tensor(rows, dtype=torch.float32), self.device)


def size_row(
    image: ImageItem, placement: Placement, *, kohyas: bool = False, mirrored: bool = False,
    drawn: tuple[int, int] | None = None,
) -> list[int]:  # fmt: skip
    """SDXL's size conditioning: original height and width, top and left of the crop, height and width of the bucket.

    ``drawn``: left and top of the crop as shown, where it was drawn at random; kohya's formula does not know it either.
    """
    width, height = placement.bucket
    left, top = buckets.kohya_crop((image.width, image.height), placement.bucket) if kohyas else placement.crop
    if drawn is not None and not kohyas:
        left, top = drawn
    elif mirrored:  # what the crop took from the right lies on the left now
        left = placement.resized[0] - width - left if not kohyas else left
    return [image.height, image.width, top, left, height, width]
