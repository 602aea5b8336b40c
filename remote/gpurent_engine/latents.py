"""Encode every picture once; keep the posterior, not a sample, so that each step draws another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gpurent_engine import objective, pictures, store
from gpurent_engine.buckets import Placement
from gpurent_engine.data import DataError, ImageItem
from gpurent_engine.spec import TrainSpec
from gpurent_engine.store import Store

FORMAT = 1
"""Counts up when the same picture would be decoded or fitted in another way."""


@dataclass(frozen=True)
class Posterior:
    """Mean and standard deviation of one picture's latent: float32 ``[4, h, w]`` each, unscaled."""

    mean: torch.Tensor
    std: torch.Tensor
    mask: torch.Tensor | None = None
    """How much each place counts, float32 ``[1, h, w]``, 0 to 1."""
    flipped: Posterior | None = None
    """Of the mirror image, where it is wanted."""
    crop: tuple[int, int] | None = None
    """Left and top of the crop in the scaled picture, as shown, where it was drawn at random."""


def pixels(item: ImageItem, placement: Placement, interpolation: str = "") -> torch.Tensor:
    """Decode, scale to cover the bucket, crop its centre: float32 ``[3, H, W]`` in -1…1; transparency becomes white.

    Raises:
        DataError: the picture cannot be decoded.
    """
    cropped = _fitted(read(item.path).image, placement, interpolation)
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float() / 127.5 - 1.0


def mask(item: ImageItem, placement: Placement, crop: tuple[int, int] | None = None) -> torch.Tensor:
    """How much each pixel counts, float32 ``[H, W]`` in 0…1: by the mask's file, else by transparency, else all.

    ``crop``: left and top, where they are not the placement's.

    Raises:
        DataError: the mask, or the picture, cannot be decoded.
    """
    if item.mask_path is not None:
        found = read(item.mask_path).image.getchannel("R")  # kohya's trainer takes the red channel
        if found.size != (item.width, item.height):
            found = found.resize((item.width, item.height), Image.Resampling.BILINEAR)
    else:
        alpha = read(item.path).alpha
        if alpha is None:
            return torch.ones(placement.bucket[1], placement.bucket[0])
        found = alpha
    fitted = pictures.fitted(
        found, placement.resized, crop or placement.crop, placement.bucket, interpolation="bilinear"
    )
    return torch.from_numpy(np.array(fitted)).float() / 255


def read(path: Path) -> pictures.Opened:
    """Decode a picture.

    Raises:
        DataError: it cannot be.
    """
    try:
        return pictures.read(path)
    except pictures.Unreadable as error:
        raise DataError(path, f"{error}.", "Replace it or take it out.") from error


def _fitted(picture: Image.Image, placement: Placement, interpolation: str) -> Image.Image:
    return pictures.fitted(picture, placement.resized, placement.crop, placement.bucket, interpolation=interpolation)


@torch.no_grad()
def encode_all(
    vae: Any, items: Sequence[ImageItem], placements: Sequence[Placement], device: torch.device, *, batch_size: int,
    on_done: Callable[[int], None] = lambda _count: None, specs: Sequence[TrainSpec] = (), masked: bool = False,
    kept: Store | None = None,
) -> list[Posterior]:  # fmt: skip
    """Encode all pictures in float32 (SD VAEs overflow in fp16), bucket by bucket; results are in order of ``items``.

    Args:
        vae: moved to the device if there is anything to encode.
        items, placements: the pictures, and where each goes.
        device: where latents stay.
        batch_size: pictures at once.
        on_done: called with how many are done.
        specs: of each picture's subset, for mirroring and scaling; none: neither.
        masked: also read how much each place counts.
        kept: latents of earlier trainings.

    Raises:
        DataError: a picture cannot be decoded, or its latent is not finite.
    """
    found: dict[int, Posterior] = {}
    groups: dict[tuple[int, int], list[int]] = {}
    files = kept or Store(None)
    names = _names(vae, items, placements, specs) if files.on else []
    for index, placement in enumerate(placements):
        known = _restored(files.get(names[index]), device) if names else None
        if known is None:
            groups.setdefault(placement.bucket, []).append(index)
        else:
            found[index] = _completed(known, known.flipped, items[index], placement, masked=masked)
    if groups:
        vae.to(device)
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            chosen = members[start : start + batch_size]
            ways = [specs[i].resize_interpolation if specs else "" for i in chosen]
            stack = torch.stack([pixels(items[i], placements[i], way) for i, way in zip(chosen, ways, strict=True)])
            straight = _encode(vae, stack.to(device), [items[i] for i in chosen])
            mirrored = [i for i in chosen if specs and specs[i].flip_aug]
            if mirrored:
                rows = torch.stack([stack[chosen.index(i)].flip(-1) for i in mirrored])
                flipped = dict(zip(mirrored, _encode(vae, rows.to(device), [items[i] for i in mirrored]), strict=True))
            else:
                flipped = {}
            for index, posterior in zip(chosen, straight, strict=True):
                if names:
                    files.put(names[index], _stored(posterior, flipped.get(index)))
                found[index] = _completed(posterior, flipped.get(index), items[index], placements[index], masked=masked)
            on_done(len(found))
    return [found[index] for index in range(len(items))]


def _names(
    vae: Any, items: Sequence[ImageItem], placements: Sequence[Placement], specs: Sequence[TrainSpec]
) -> list[str]:  # fmt: skip
    """A name for each picture's latent, by the VAE's weights, the file's bytes and how it is fitted into its bucket."""
    encoder = store.weights([one for one in (vae.encoder, vae.quant_conv) if one is not None])
    found = []
    for index, (item, placement) in enumerate(zip(items, placements, strict=True)):
        try:
            digest = hashlib.sha256(item.path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(item.path, f"cannot be read: {error}.") from error
        how = (specs[index].resize_interpolation, specs[index].flip_aug) if specs else ("", False)
        found.append(store.key("latent", FORMAT, encoder, digest, asdict(placement), how))
    return found


def _stored(straight: Posterior, flipped: Posterior | None) -> dict[str, torch.Tensor]:
    found = {"mean": straight.mean, "std": straight.std}
    return found if flipped is None else {**found, "flipped_mean": flipped.mean, "flipped_std": flipped.std}


def _restored(found: dict[str, torch.Tensor] | None, device: torch.device) -> Posterior | None:
    if found is None:
        return None
    sent = {name: one.to(device) for name, one in found.items()}
    flipped = Posterior(sent["flipped_mean"], sent["flipped_std"]) if "flipped_mean" in sent else None
    return Posterior(sent["mean"], sent["std"], flipped=flipped)


def _encode(vae: Any, stack: torch.Tensor, items: Sequence[ImageItem]) -> list[Posterior]:
    distribution = vae.encode(stack).latent_dist
    found = []
    for row, item in enumerate(items):
        mean, std = distribution.mean[row].float(), distribution.std[row].float()
        if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
            raise DataError(item.path, "gives a latent that is not finite.", "Replace it or take it out.")
        found.append(Posterior(mean, std))
    return found


def _completed(
    straight: Posterior, flipped: Posterior | None, item: ImageItem, placement: Placement, *, masked: bool
) -> Posterior:  # fmt: skip
    if masked:
        height, width = straight.mean.shape[-2:]
        shares = objective.shrunk(mask(item, placement), height, width)[None].to(straight.mean.device)
        straight = replace(straight, mask=shares)
        flipped = None if flipped is None else replace(flipped, mask=shares.flip(-1))
    return straight if flipped is None else replace(straight, flipped=flipped)
