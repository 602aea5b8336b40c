"""Encode pictures each time they are shown, where crop or colours are drawn again: what cannot be cached."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from gpurent_engine import augment, latents, objective, pictures
from gpurent_engine.augment import Cut
from gpurent_engine.buckets import Placement
from gpurent_engine.data import ImageItem
from gpurent_engine.device import sent
from gpurent_engine.latents import Posterior
from gpurent_engine.spec import TrainSpec

KEPT_BYTES = 2 * 1024**3
"""Of decoded pictures in memory; what goes beyond is read again each time."""


@dataclass(frozen=True)
class Shown:
    """A picture that is about to be shown."""

    item: ImageItem
    placement: Placement
    spec: TrainSpec
    """Of its subset."""
    mirrored: bool
    key: str
    """Decides what is drawn: the same in a run that was resumed."""


@dataclass
class LiveEncoder:
    """Turns pictures into posteriors on ``device``; the VAE stays there."""

    vae: Any
    device: torch.device
    most: int
    """Pictures at once."""
    masked: bool
    """Also give how much each place counts."""
    _kept: dict[ImageItem, Image.Image] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)

    @torch.no_grad()
    def __call__(self, shown: Sequence[Shown]) -> list[Posterior]:
        """A posterior for each, with its crop. What is not finite becomes 0, as in kohya's trainer.

        Raises:
            DataError: a picture cannot be decoded any more.
        """
        views = [self._view(one) for one in shown]
        found: list[Posterior] = []
        for at in range(0, len(shown), self.most):
            stack = torch.stack([pixels for pixels, _, _ in views[at : at + self.most]])
            distribution = self.vae.encode(sent(stack, self.device)).latent_dist
            mean, std = (torch.nan_to_num(one.float(), 0.0, 0.0, 0.0) for one in (distribution.mean, distribution.std))
            for row, (_, crop, mask) in enumerate(views[at : at + self.most]):
                one = Posterior(mean[row], std[row], crop=crop)
                if mask is not None:
                    height, width = one.mean.shape[-2:]
                    one = replace(one, mask=sent(objective.shrunk(mask, height, width)[None], self.device))
                found.append(one)
        return found

    def _view(self, shown: Shown) -> tuple[torch.Tensor, tuple[int, int], torch.Tensor | None]:
        """Pixels in -1…1 ``[3, H, W]``, left and top of the crop, and how much each pixel counts ``[H, W]``."""
        item, placement, spec = shown.item, shown.placement, shown.spec
        draw = random.Random(shown.key)
        cut = augment.cut((item.width, item.height), placement, spec, augment.face_of(spec, item.path), draw=draw)
        picture = _fitted(self._read(item), cut, placement, spec.resize_interpolation)
        if spec.color_aug:
            picture = augment.coloured(picture, draw)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1.0
        mask = latents.mask(item, Placement(placement.bucket, cut.resized), cut.crop) if self.masked else None
        left, top = cut.crop
        if shown.mirrored:
            pixels, mask = pixels.flip(-1), None if mask is None else mask.flip(-1)
            left = cut.resized[0] - placement.bucket[0] - left
        return pixels, (left, top), mask

    def _read(self, item: ImageItem) -> Image.Image:
        if item in self._kept:
            return self._kept[item]
        picture = latents.read(item.path).image
        size = picture.width * picture.height * 3
        if self._bytes + size <= KEPT_BYTES:
            self._kept[item] = picture
            self._bytes += size
        return picture


def _fitted(picture: Image.Image, cut: Cut, placement: Placement, interpolation: str) -> Image.Image:
    return pictures.fitted(picture, cut.resized, cut.crop, placement.bucket, interpolation=interpolation)
