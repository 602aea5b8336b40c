"""Decode every picture now: one that fails on a rented machine costs money."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from gpurent.errors import DatasetError
from gpurent_engine.data import Dataset
from gpurent_engine.spec import TrainSpec

FEW = 15
"""The guide's floor for a simple concept."""


def check(dataset: Dataset, spec: TrainSpec, on_checked: Callable[[int, int], None]) -> list[str]:
    """Decode all pictures and return warnings.

    Raises:
        DatasetError: naming the first picture that cannot be decoded.
    """
    images = dataset.images
    seen: dict[str, Path] = {}
    warnings: list[str] = []
    with ThreadPoolExecutor() as pool:
        for done, (path, digest) in enumerate(pool.map(lambda image: (image.path, _decode(image.path)), images), 1):
            if digest in seen:
                warnings.append(f"{path.name} is the same picture as {seen[digest].name}.")
            seen.setdefault(digest, path)
            on_checked(done, len(images))
    return warnings + _advice(dataset, spec)


def _decode(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            picture.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"{path}: cannot be decoded as an image ({error}).", hint="Replace it or take it out."
        ) from error
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _advice(dataset: Dataset, spec: TrainSpec) -> list[str]:
    images, advice = dataset.images, []
    if len(images) < FEW:
        advice.append(f"Only {len(images)} images; 20 to 40 are usual for a simple concept.")
    area = spec.resolution[0] * spec.resolution[1]
    small = [image.path.name for image in images if image.width * image.height < area * 0.8]
    if small and not spec.bucket_no_upscale:
        advice.append(
            f"{len(small)} images are smaller than {spec.resolution[0]}×{spec.resolution[1]} and will be enlarged: {small[0]} …"
        )
    bare = [image.path.name for image in images if image.caption_path is None]
    if bare:
        advice.append(f"{len(bare)} images have no caption file and use their folder's name: {bare[0]} …")
    for folder in dataset.folders:
        first = [tag.strip() for image in folder.images for tag in image.caption.split(",")[:1]]
        common = max(set(first), key=first.count)
        lacking = [image.path.name for image in folder.images if common not in image.caption]
        if lacking and first.count(common) > len(first) / 2:
            advice.append(
                f"The trigger phrase {common!r} is missing from {len(lacking)} captions of {folder.name}: {lacking[0]} …"
            )
    if dataset.skipped:
        advice.append(f"Not used: {', '.join(dataset.skipped[:5])} (no <repeats>_<concept> folder).")
    return advice
