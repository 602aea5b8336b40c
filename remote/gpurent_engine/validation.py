"""Held-out pictures: which they are, and how far off the training is on them. Torch-free until a loss is asked for.

As in kohya-ss/sd-scripts (``train_util.py: split_train_val``, ``train_network.py``): a share of each folder is shuffled
by a seed and never trained on; its loss is taken at four time steps, evenly spaced. Unlike there, noise and the sample
of the VAE's posterior are the same each time, so that two losses differ by what was learnt alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gpurent_engine import buckets
from gpurent_engine.buckets import Length
from gpurent_engine.data import Dataset, Folder
from gpurent_engine.spec import TrainSpec

if TYPE_CHECKING:
    from gpurent_engine.feed import Feed
    from gpurent_engine.stepper import Stepper

TIMES = 4
"""Time steps at which each picture is looked at."""


def split(found: Dataset, spec: TrainSpec) -> tuple[list[int], list[int]]:
    """Positions of the pictures that are trained on, and of those that are held out. Regularisation images never are;
    of each folder at least one picture is trained on."""
    trained: list[int] = []
    held: list[int] = []
    start = 0
    for folder in found.folders:
        positions = range(start, start + len(folder.images))
        start += len(folder.images)
        out = _held(folder, positions, spec)
        held += sorted(out)
        trained += [one for one in positions if one not in out]
    return trained, held


def _held(folder: Folder, positions: Sequence[int], spec: TrainSpec) -> set[int]:
    own = spec.of(folder.settings)
    count = min(round(len(positions) * own.validation_split), len(positions) - 1)
    if folder.regular or count <= 0:
        return set()
    shuffled = list(positions)
    random.Random(own.seed if own.validation_seed is None else own.validation_seed).shuffle(shuffled)
    return set(shuffled[len(shuffled) - count :])


def only(found: Dataset, positions: Sequence[int]) -> Dataset:
    """A dataset of some of the pictures, in their order; folders without any are left out."""
    chosen = set(positions)
    folders, start = [], 0
    for folder in found.folders:
        images = tuple(image for at, image in enumerate(folder.images, start) if at in chosen)
        start += len(folder.images)
        folders += [replace(folder, images=images)] if images else []
    return replace(found, folders=tuple(folders))


def length(found: Dataset, trained: Sequence[int], spec: TrainSpec) -> Length:
    """How long a run over these pictures of a dataset is."""
    kept = only(found, trained)
    return buckets.length(spec, [(one.width, one.height) for one in kept.images], kept.repeats, kept.kinds)


def due(spec: TrainSpec, step: int, epoch: int, *, ended: bool) -> bool:
    """Whether it is time for a look.

    Args:
        spec: of the training.
        step: optimiser steps taken.
        epoch: the one under way or just ended, counted from 1.
        ended: whether it has just ended.
    """
    if spec.validate_every_n_steps and step % spec.validate_every_n_steps == 0:
        return True
    return ended and epoch % (spec.validate_every_n_epochs or 1) == 0


def times(spec: TrainSpec) -> list[int]:
    """The time steps, from low to high: 200, 400, 600, 800 where all are trained."""
    least, most = spec.min_timestep, spec.max_timestep
    return [min(least + (most - least) * (i + 1) // (TIMES + 1), most - 1) for i in range(TIMES)]


def loss(feed: Feed, stepper: Stepper) -> float:
    """Mean loss over held-out pictures and time steps. Nothing of the training changes, its random numbers included.

    Args:
        feed: of the held-out pictures.
        stepper: as it stands.
    """
    total, count = 0.0, 0
    for batch in feed.exam(times(feed.spec), feed.spec.max_validation_steps):
        total += float(stepper.examine([batch])[0]) * len(batch.mean)
        count += len(batch.mean)
    return total / count
