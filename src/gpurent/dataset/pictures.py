"""Decode every picture now: one that fails on a rented machine costs money."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpurent.dataset import twins
from gpurent.dataset.bounds import Bounds
from gpurent.dataset.naming import listed, noted
from gpurent.tasks import parallel
from gpurent_engine import pictures
from gpurent_engine.data import DataError, Dataset, Folder

HINT = "Replace or remove it: the file is damaged or is not a picture."


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture that was decoded; ``error`` says why it could not be."""

    path: Path
    digest: str
    look: twins.Look | None = None
    error: str = ""
    notes: tuple[str, ...] = ()


def decode(dataset: Dataset, on_checked: Callable[[int, int], None]) -> list[Decoded]:
    """Decode all pictures side by side.

    Args:
        dataset: as scanned.
        on_checked: called from this thread with pictures done so far and in all.
    """
    owners = {folder.path: bounds_of(dataset, folder) for folder in dataset.folders}
    tasks = [(image.path, owners[folder.path]) for folder in dataset.folders for image in folder.images]
    decoded: list[Decoded] = []
    for picture in parallel(lambda task: _decode(*task), tasks):
        decoded.append(picture)
        on_checked(len(decoded), len(tasks))
    return decoded


def errors(decoded: Sequence[Decoded]) -> list[DataError]:
    """Those that cannot be decoded."""
    return [DataError(picture.path, f"{picture.error}.", HINT) for picture in decoded if picture.error]


def remarks(decoded: Sequence[Decoded]) -> list[str]:
    """One sentence for each thing that is odd about some pictures, twins first."""
    by_note: dict[str, list[str]] = {}
    for picture in decoded:
        for note in picture.notes:
            by_note.setdefault(note, []).append(place(picture.path))
    return [*_twins(decoded), *(noted(names, note) for note, names in by_note.items())]


def bounds_of(dataset: Dataset, folder: Folder) -> Bounds:
    """Where the files of one folder may lie: in the dataset, or in that folder where it was named by itself."""
    return Bounds.around(dataset.root if dataset.by_name else folder.path)


def place(path: Path) -> str:
    """A file with its folder, for people."""
    return f"{path.parent.name}/{path.name}"


def _decode(path: Path, bounds: Bounds) -> Decoded:
    try:
        with bounds.open(bounds.real(path)) as file:
            pictures.verify(file)
            file.seek(0)
            opened = pictures.read(file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (pictures.Unreadable, OSError) as error:
        return Decoded(path, "", error=str(error).rstrip("."))
    return Decoded(path, digest, twins.look(opened.image), notes=opened.notes)


def _twins(decoded: Sequence[Decoded]) -> list[str]:
    seen: dict[str, Decoded] = {}
    same: list[str] = []
    for picture in decoded:
        first = picture.digest and seen.setdefault(picture.digest, picture)
        if isinstance(first, Decoded) and first is not picture:
            same.append(f"{place(picture.path)} is the same picture as {place(first.path)}.")
    single = [picture for picture in seen.values() if picture.look is not None]
    alike = [
        f"{place(single[late].path)} and {place(single[early].path)}"
        for early, late in twins.pairs([picture.look for picture in single if picture.look is not None])
    ]  # fmt: skip
    if alike:
        same.append(f"Look the same, so that they count twice: {listed(alike)}.")
    return same
