"""Whether dataset, base and configuration suit each other. Torch-free: the client and the engine ask the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpurent_engine import buckets, data
from gpurent_engine.buckets import Length, Placement
from gpurent_engine.data import DataError, Dataset, ImageItem
from gpurent_engine.pictures import MOST_PIXELS
from gpurent_engine.schedule import warmup_steps
from gpurent_engine.spec import SpecError, TrainSpec, together

MOST_REPEATS = 10_000_000
"""Pictures an epoch, repeats included: what is listed in memory for each epoch."""
CROP = "Crop it to what matters, or take it out."
LOST = 0.5
"""Share of a picture that the crop takes away from which on it is worth a word."""


def checked(found: Dataset, spec: TrainSpec, factor: int, depth: int) -> tuple[Placement, ...]:
    """Where each picture goes, if everything suits.

    Args:
        found: as scanned.
        spec: of the training.
        factor: pixels of a picture for each value of a latent, along one side.
        depth: layers of the base's text encoder.

    Raises:
        SpecError, DataError: it does not; ``others`` has the further reasons.
    """
    placements = placed(found, spec)
    if wrong := [*layers(spec, depth), *sizes(placements, spec, factor)]:
        raise together(wrong)
    if bad := errors(found, placements, factor):
        raise data.together(bad)
    return placements


def placed(found: Dataset, spec: TrainSpec) -> tuple[Placement, ...]:
    """Where each picture of a dataset goes."""
    return buckets.place_all([(one.width, one.height) for one in found.images], spec, found.kinds)


def errors(found: Dataset, placements: Sequence[Placement], factor: int) -> list[DataError]:
    """Pictures that have no room in a bucket, and repeats that nobody means.

    Args:
        found: as scanned.
        placements: of its pictures.
        factor: pixels of a picture for each value of a latent, along one side.
    """
    wrong = [
        _too_small(image, placement, factor)
        for image, placement in zip(found.images, placements, strict=True)
        if min(placement.bucket) < factor
    ]
    wrong += [
        DataError(image.path, f"is so long that it would be scaled to {one.resized[0]}×{one.resized[1]} pixels.", CROP)
        for image, one in zip(found.images, placements, strict=True)
        if one.resized[0] * one.resized[1] > MOST_PIXELS
    ]
    count = sum(found.repeats)
    if count > MOST_REPEATS:
        folder = max(found.folders, key=lambda one: one.repeats)
        said = f"asks for {folder.repeats} repeats, which makes {count} pictures an epoch; {MOST_REPEATS} are the most."
        wrong.append(DataError(folder.path, said, "Lower the number before the folder's name."))
    return wrong


def _too_small(image: ImageItem, placement: Placement, factor: int) -> DataError:
    width, height = image.width, image.height
    said = f"has {width}×{height} pixels and gives a bucket of {placement.bucket[0]}×{placement.bucket[1]}."
    hint = "Replace it or take it out, lower bucket_reso_steps, or set bucket_no_upscale = false."
    return DataError(image.path, said, hint if min(width, height) >= factor else "Replace it or take it out.")


def sizes(placements: Sequence[Placement], spec: TrainSpec, factor: int) -> Iterator[SpecError]:
    """Buckets that the base cannot make latents of.

    Args:
        placements: of the pictures.
        spec: of the training.
        factor: as for ``errors``.
    """
    odd = sorted({one.bucket for one in placements if any(side % factor for side in one.bucket) and min(one.bucket)})
    if odd:
        key = "bucket_reso_steps" if spec.enable_bucket else "resolution"
        named = ", ".join(f"{width}×{height}" for width, height in odd[:3])
        yield SpecError(key, f"gives {named}, but sizes must be multiples of {factor} for this base model.")


def layers(spec: TrainSpec, count: int) -> Iterator[SpecError]:
    """A ``clip_skip`` beyond the ``count`` layers of the base's text encoder."""
    if spec.clip_skip is not None and spec.clip_skip > count:
        yield SpecError("clip_skip", f"is {spec.clip_skip}, but the base's text encoder has {count} layers.")


def doubts(spec: TrainSpec, length: Length) -> list[tuple[str, str]]:
    """Values that can be meant, but seldom are, given how long the run is. Key and message."""
    found = []
    warmup = warmup_steps(spec.lr_warmup_steps, length.steps)
    if warmup >= length.steps:
        said = f"the warm-up takes {warmup} steps of the run's {length.steps}: the rate never gets where it should."
        found.append(("lr_warmup_steps", f"lr_warmup_steps: {said}"))
    for key, every, whole, unit in (
        ("save_every_n_epochs", spec.save_every_n_epochs, length.epochs, "epochs"),
        ("save_every_n_steps", spec.save_every_n_steps, length.steps, "steps"),
    ):
        if every and every > whole:
            found.append((key, f"{key} is {every}, but the run has {whole} {unit}: only the finished file is saved."))
    return found


def lost(placement: Placement) -> float:
    """Share of a picture's area that the crop takes away."""
    width, height = placement.resized
    return 1 - placement.bucket[0] * placement.bucket[1] / max(1, width * height)


def cropped(found: Dataset, placements: Sequence[Placement]) -> list[tuple[ImageItem, float]]:
    """Pictures that lose more than ``LOST`` of their area, and how much each loses."""
    shares = [(image, lost(placement)) for image, placement in zip(found.images, placements, strict=True)]
    return [(image, share) for image, share in shares if share > LOST]
