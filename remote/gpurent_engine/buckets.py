"""Aspect-ratio buckets and batches exactly as kohya-ss/sd-scripts makes them. Pure; torch-free.

Source: kohya-ss/sd-scripts, ``library/model_util.py`` (make_bucket_resolutions) and ``library/train_util.py``
(BucketManager): behaviour re-implemented from its description and checked against vectors made with it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from gpurent_engine.spec import SpecError, TrainSpec

Size = tuple[int, int]
Kind = tuple[int, tuple[tuple[str, Any], ...]]
"""Group and settings of the subset that a picture belongs to: see ``spec.Subset``."""


@dataclass(frozen=True)
class Placement:
    """Where a picture goes: the bucket's size, and the size it is scaled to before the centre crop (pixels)."""

    bucket: Size
    resized: Size

    @property
    def crop(self) -> Size:
        """Left and top of the crop, pixels of the scaled picture."""
        return (self.resized[0] - self.bucket[0]) // 2, (self.resized[1] - self.bucket[1]) // 2


def kohya_crop(image: Size, bucket: Size) -> Size:
    """Left and top that kohya's trainer tells SDXL (``BucketManager.get_crop_ltrb``).

    Half of what the picture would lack if it were fitted into the bucket, which is not what the crop takes away.
    """
    if bucket[0] / bucket[1] > image[0] / image[1]:
        fitted = (bucket[1] * image[0] / image[1], float(bucket[1]))
    else:
        fitted = (float(bucket[0]), bucket[0] * image[1] / image[0])
    return int((bucket[0] - fitted[0]) // 2), int((bucket[1] - fitted[1]) // 2)


@lru_cache(maxsize=64)
def resolutions(area: Size, smallest: int, largest: int, step: int) -> tuple[Size, ...]:
    """All bucket sizes whose area does not exceed ``width × height`` of ``area``."""
    pixels = area[0] * area[1]
    side = int(math.sqrt(pixels) // step) * step
    found = {(side, side)}
    for width in range(smallest, largest + 1, step):
        height = min(largest, (pixels // width) // step * step)
        if height >= smallest:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


def place(image: Size, spec: TrainSpec) -> Placement:
    """Choose bucket and scaled size for a picture of ``image`` pixels."""
    if not spec.enable_bucket:
        return Placement(spec.resolution, _cover(image, spec.resolution))
    if spec.bucket_no_upscale:
        return _without_upscaling(image, spec.resolution, spec.bucket_reso_steps)
    choices = resolutions(spec.resolution, spec.min_bucket_reso, spec.max_bucket_reso, spec.bucket_reso_steps)
    if image in choices:
        return Placement(image, image)
    ratio = image[0] / image[1]
    bucket = min(choices, key=lambda size: abs(size[0] / size[1] - ratio))
    return Placement(bucket, _cover(image, bucket))


def _cover(image: Size, bucket: Size) -> Size:
    scale = bucket[1] / image[1] if image[0] / image[1] > bucket[0] / bucket[1] else bucket[0] / image[0]
    width, height = int(image[0] * scale + 0.5), int(image[1] * scale + 0.5)
    return max(width, bucket[0]), max(height, bucket[1])


def _without_upscaling(image: Size, area: Size, step: int) -> Placement:
    width, height = image
    ratio = width / height
    if width * height > area[0] * area[1]:
        ideal_width = math.sqrt(area[0] * area[1] * ratio)
        ideal_height = area[0] * area[1] / ideal_width
        by_width_w = round_to(ideal_width, step)
        by_width_h = round_to(by_width_w / ratio, step)
        by_height_h = round_to(ideal_height, step)
        by_height_w = round_to(by_height_h * ratio, step)
        if abs(by_width_w / by_width_h - ratio) < abs(by_height_w / by_height_h - ratio):
            resized = (by_width_w, int(by_width_w / ratio + 0.5))
        else:
            resized = (int(by_height_h * ratio + 0.5), by_height_h)
    else:
        resized = image
    bucket = (resized[0] - resized[0] % step, resized[1] - resized[1] % step)
    return Placement(bucket, resized)


def round_to(value: float, step: int) -> int:
    """Down to a multiple of ``step`` after rounding half up to whole pixels."""
    whole = int(value + 0.5)
    return max(step, whole - whole % step)


Bin = tuple[int, int, int, int]
"""What pictures of one batch have in common: group of the dataset configuration, width and height of the bucket, and
how many there are at most."""


def bins(placements: Sequence[Placement], kinds: Sequence[Kind], spec: TrainSpec) -> list[Bin]:
    """The bin of each picture; ``kinds`` has the group and the settings of each, or is empty where all are alike."""
    sizes = [one.bucket for one in placements]
    if not kinds:
        return [(0, *size, spec.train_batch_size) for size in sizes]
    return [
        (group, *size, spec.of(settings).train_batch_size)
        for size, (group, settings) in zip(sizes, kinds, strict=True)
    ]  # fmt: skip


def place_all(sizes: Sequence[Size], spec: TrainSpec, kinds: Sequence[Kind] = ()) -> tuple[Placement, ...]:
    """``place`` for every picture, each by the settings of its subset."""
    if not kinds:
        return tuple(place(size, spec) for size in sizes)
    return tuple(place(size, spec.of(settings)) for size, (_, settings) in zip(sizes, kinds, strict=True))


def epoch_batches(bins: Sequence[Bin], repeats: Sequence[int], seed: int, epoch: int) -> list[list[int]]:
    """Indices of the pictures of each batch of one epoch: one bin a batch, short last batches kept, shuffled.

    Args:
        bins: of each picture.
        repeats: how often each picture comes in an epoch.
        seed, epoch: the order depends on their sum alone, so that a resumed run sees the same batches.
    """
    shuffler = random.Random(seed + epoch)
    groups: dict[Bin, list[int]] = {}
    for index, (one, times) in enumerate(zip(bins, repeats, strict=True)):
        groups.setdefault(one, []).extend([index] * times)
    batches = []
    for one in sorted(groups):
        members, size = groups[one], one[-1]
        shuffler.shuffle(members)
        batches += [members[start : start + size] for start in range(0, len(members), size)]
    shuffler.shuffle(batches)
    return batches


def batches_per_epoch(bins: Sequence[Bin], repeats: Sequence[int]) -> int:
    """How many batches ``epoch_batches`` yields."""
    groups: dict[Bin, int] = {}
    for one, times in zip(bins, repeats, strict=True):
        groups[one] = groups.get(one, 0) + times
    return sum(-(-count // one[-1]) for one, count in groups.items())


@dataclass(frozen=True)
class Length:
    """Length of a run: optimiser steps an epoch, epochs and steps in all."""

    batches_per_epoch: int
    steps_per_epoch: int
    epochs: int
    """The last epoch's number, counted from 1."""
    steps: int
    """That are taken; ``skipped`` epochs are not."""
    skipped: int = 0

    @property
    def rounds(self) -> int:
        """Epochs that are trained."""
        return self.epochs - self.skipped


def shortened(length: Length, steps: int) -> Length:
    """The same run with fewer steps."""
    return replace(length, steps=steps, epochs=length.skipped - (-steps // length.steps_per_epoch))


def length(
    spec: TrainSpec, sizes: Sequence[Size], repeats: Sequence[int], kinds: Sequence[Kind] = ()
) -> Length:  # fmt: skip
    """How long a run is. ``max_train_epochs`` wins over ``max_train_steps``, as in kohya's trainer.

    So does ``initial_step`` over ``initial_epoch``; as there, they leave out whole epochs, and steps count from 0.

    Raises:
        SpecError: no epoch is left.
    """
    batches = batches_per_epoch(bins(place_all(sizes, spec, kinds), kinds, spec), repeats)
    per_epoch = -(-batches // spec.gradient_accumulation_steps)
    if spec.max_train_epochs is not None:
        epochs, most = spec.max_train_epochs, spec.max_train_epochs * per_epoch
    else:
        epochs, most = -(-spec.max_train_steps // per_epoch), spec.max_train_steps
    by_step = spec.initial_step is not None
    skipped = (spec.initial_step or 0) // per_epoch if by_step else (spec.initial_epoch or 1) - 1
    if skipped >= epochs:
        key = "initial_step" if by_step else "initial_epoch"
        raise SpecError(key, f"is {getattr(spec, key)}, but the run ends after {most} steps, with epoch {epochs}.")
    return Length(batches, per_epoch, epochs, min(most, (epochs - skipped) * per_epoch), skipped)
