"""Encode every picture once; keep the posterior, not a sample, so that each step draws anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from gpurent_engine.buckets import Placement
from gpurent_engine.data import DataError, ImageItem


@dataclass(frozen=True)
class Posterior:
    """Mean and standard deviation of one picture's latent: float32 ``[4, h, w]`` each, unscaled."""

    mean: torch.Tensor
    std: torch.Tensor


def pixels(item: ImageItem, placement: Placement) -> torch.Tensor:
    """Decode, scale to cover the bucket, crop its centre: float32 ``[3, H, W]`` in -1…1; transparency becomes white.

    Raises:
        DataError: the picture cannot be decoded.
    """
    try:
        with Image.open(item.path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                rgba = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            picture = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(item.path, f"cannot be decoded ({error}).", "Replace it or take it out.") from error
    if picture.size != placement.resized:
        picture = picture.resize(placement.resized, Image.Resampling.LANCZOS)
    width, height = placement.bucket
    left, top = placement.crop
    cropped = picture.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float() / 127.5 - 1.0


@torch.no_grad()
def encode_all(
    vae: Any, items: Sequence[ImageItem], placements: Sequence[Placement], device: torch.device, batch_size: int,
    on_done: Callable[[int], None] = lambda _count: None,
) -> list[Posterior]:  # fmt: skip
    """Encode all pictures in float32 (SD VAEs overflow in fp16), bucket by bucket; results are in order of ``items``.

    Raises:
        DataError: a picture cannot be decoded, or its latent is not finite.
    """
    found: dict[int, Posterior] = {}
    groups: dict[tuple[int, int], list[int]] = {}
    for index, placement in enumerate(placements):
        groups.setdefault(placement.bucket, []).append(index)
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            chosen = members[start : start + batch_size]
            stack = torch.stack([pixels(items[i], placements[i]) for i in chosen]).to(device)
            posterior = vae.encode(stack).latent_dist
            for row, index in enumerate(chosen):
                mean, std = posterior.mean[row].float(), posterior.std[row].float()
                if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
                    raise DataError(
                        items[index].path, "gives a latent that is not finite.", "Replace it or take it out."
                    )
                found[index] = Posterior(mean, std)
            on_done(len(found))
    return [found[index] for index in range(len(items))]
