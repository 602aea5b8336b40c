"""Decode every picture now: one that fails on a rented machine costs money."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpurent.dataset.bounds import Bounds
from gpurent.errors import DatasetError
from gpurent.tasks import parallel
from gpurent.words import counted
from gpurent_engine import pictures
from gpurent_engine.data import Dataset, Folder
from gpurent_engine.spec import TrainSpec

FEW = 15
"""Below this a simple concept is rarely learnt."""
SMALL = 0.8
"""Share of the training area below which enlarging shows."""
NAMED = 5


@dataclass(frozen=True, slots=True)
class _Decoded:
    path: Path
    digest: str
    error: str = ""
    notes: tuple[str, ...] = ()


def check(dataset: Dataset, spec: TrainSpec, on_checked: Callable[[int, int], None]) -> list[str]:
    """Decode all pictures side by side and return warnings.

    Args:
        dataset: as scanned.
        spec: for the resolution.
        on_checked: called from this thread with pictures done so far and in all.

    Raises:
        DatasetError: naming every picture that cannot be decoded.
    """
    owners = {folder.path: bounds_of(dataset, folder) for folder in dataset.folders}
    tasks = [(image.path, owners[folder.path]) for folder in dataset.folders for image in folder.images]
    decoded: list[_Decoded] = []
    for one in parallel(lambda task: _decode(*task), tasks):
        decoded.append(one)
        on_checked(len(decoded), len(tasks))
    bad = [one for one in decoded if one.error]
    if bad:
        raise DatasetError(
            f"{_named([str(one.path) for one in bad])} {bad[0].error}.",
            hint="Replace or remove it: the file is damaged or is no picture.",
        )
    return [*_twins(decoded), *_noted(decoded), *_advice(dataset, spec)]


def bounds_of(dataset: Dataset, folder: Folder) -> Bounds:
    """Where the files of one folder may lie: in the dataset, or in that folder where it was named by itself."""
    return Bounds.around(dataset.root if dataset.by_name else folder.path)


def _decode(path: Path, bounds: Bounds) -> _Decoded:
    try:
        with bounds.open(bounds.real(path)) as file:
            pictures.verify(file)
            file.seek(0)
            opened = pictures.read(file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (pictures.Unreadable, OSError) as error:
        return _Decoded(path, "", str(error).rstrip("."))
    return _Decoded(path, digest, notes=opened.notes)


def _noted(decoded: list[_Decoded]) -> list[str]:
    """One sentence for each thing that is odd about some pictures."""
    by_note: dict[str, list[str]] = {}
    for one in decoded:
        for note in one.notes:
            by_note.setdefault(note, []).append(f"{one.path.parent.name}/{one.path.name}")
    return [f"{_named(names)} {note}." for note, names in by_note.items()]


def _named(names: list[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _twins(decoded: list[_Decoded]) -> list[str]:
    seen: dict[str, Path] = {}
    twins = []
    for one in decoded:
        first = seen.setdefault(one.digest, one.path)
        if first != one.path:
            twins.append(
                f"{one.path.parent.name}/{one.path.name} is the same picture as {first.parent.name}/{first.name}."
            )
    return twins


def _advice(dataset: Dataset, spec: TrainSpec) -> list[str]:
    images, advice = dataset.images, []
    if len(images) < FEW:
        advice.append(f"Only {counted(len(images), 'image')}: 20 to 40 are usual for a simple concept.")
    width, height = spec.resolution
    small = [one.path.name for one in images if one.width * one.height < width * height * SMALL]
    if small and not (spec.enable_bucket and spec.bucket_no_upscale):
        verb = "is" if len(small) == 1 else "are"
        advice.append(
            f"{counted(len(small), 'image')} {verb} smaller than {width}×{height} and will look soft: {_named(small)}."
        )
    bare = [one.path.name for one in images if one.caption_path is None]
    if bare:
        advice.append(f"{counted(len(bare), 'image')} without a caption: the folder's name is used for {_named(bare)}.")
    advice += [missing for folder in dataset.folders for missing in _without_trigger(folder)]
    if dataset.skipped:
        advice.append(f"Not used, because not in a <repeats>_<concept> folder: {_named(list(dataset.skipped))}.")
    return advice


def _without_trigger(folder: Folder) -> list[str]:
    """The phrase before the first comma that most captions begin with is taken for the trigger."""
    firsts = [image.caption.split(",")[0].strip() for image in folder.images]
    counts = Counter(firsts)
    trigger = max(sorted(counts), key=counts.__getitem__)
    lacking = [image.path.name for image in folder.images if trigger not in image.caption]
    if not lacking or counts[trigger] * 2 <= len(firsts):
        return []
    count = counted(len(lacking), "caption")
    return [f"The trigger phrase {trigger!r} is missing from {count} of {folder.name}: {_named(lacking)}."]
