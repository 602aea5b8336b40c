"""Files of a dataset that nothing will be trained on, named with the reason. Nothing is passed over in silence."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpurent.dataset.naming import listed
from gpurent.words import counted
from gpurent_engine import captionfile, data
from gpurent_engine.data import Dataset
from gpurent_engine.filenames import meant
from gpurent_engine.pictures import HEIC

PICTURES = {
    ".jxl": "JPEG XL", ".psd": "Photoshop", ".svg": "SVG",
    ".dng": "raw", ".cr2": "raw", ".cr3": "raw", ".nef": "raw", ".arw": "raw", ".orf": "raw", ".rw2": "raw",
    ".ico": "ICO", ".tga": "TGA", ".jp2": "JPEG 2000", ".exr": "OpenEXR", ".hdr": "Radiance", ".mp4": "video",
    ".mov": "video", ".webm": "video",
}  # fmt: skip
"""Pictures in formats that are not read."""
HEIC_REMEDY = "`pip install 'gpurent[heic]'` adds it; or convert to PNG or JPEG."
TEXTS = frozenset((".txt", ".caption", ".tags", ".cap"))
LATENTS = frozenset((".npz",))
AN_ERROR = "an error says why"
MOST_LISTED = 10_000
"""Files below a folder that are counted."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that is not used. A folder stands for all that is in it."""

    path: Path
    what: str
    """Its kind, in the singular."""
    why: str
    remedy: str = ""
    pictures: int = 0
    """In a folder: pictures in it."""


def left_out(dataset: Dataset, wrong: Collection[Path] = ()) -> list[LeftOut]:
    """What beside the pictures and captions of a dataset is not used, system junk excepted.

    Args:
        dataset: as scanned.
        wrong: files that errors name already.
    """
    bad = {(path.parent, captionfile.folded(path.stem)) for path in wrong}
    used = {path for image in dataset.images for path in (image.path, image.caption_path, image.mask_path)}
    masks = {image.mask_path.parent for image in dataset.images if image.mask_path is not None}
    folders = {folder.path for folder in dataset.folders} | masks
    found: list[LeftOut] = []
    if dataset.by_name:
        found += [_above(path) for path in sorted(dataset.root.iterdir()) if not (path in folders or data.junk(path))]
    for folder in sorted(folders):
        stems = {captionfile.folded(path.stem) for path in used if path is not None and path.parent == folder}
        for path in sorted(folder.iterdir()):
            if path in used or path in folders or data.junk(path):
                continue
            if path in wrong:
                found.append(LeftOut(path, "file", AN_ERROR))
            elif (folder, captionfile.folded(path.stem)) in bad and path.suffix.lower() in TEXTS:
                found.append(LeftOut(path, "caption", "its picture cannot be used"))
            elif (folder, captionfile.folded(path.stem)) in bad and path.suffix.lower() in data.SUFFIXES:
                found.append(LeftOut(path, "image", "its caption cannot be used"))
            else:
                found.append(_in_folder(path, stems))
    return found


def told(found: Sequence[LeftOut]) -> list[str]:
    """One sentence for each reason."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        if one.why == AN_ERROR:
            continue
        name = f"{one.path.parent.name}/{one.path.name}"
        if one.pictures:
            name += f" ({counted(one.pictures, 'picture')})"
        groups.setdefault((one.what, one.why, one.remedy), []).append(name)
    return [
        f"{counted(len(names), what)} left out, because {why}: {listed(names)}. {remedy}".rstrip()
        for (what, why, remedy), names in groups.items()
    ]


def unused(found: Sequence[LeftOut]) -> list[str]:
    """The same, and what errors name: everything that a refused dataset has beside good pictures and captions."""
    named = [f"{one.path.parent.name}/{one.path.name}" for one in found if one.why == AN_ERROR]
    bad = [f"{counted(len(named), 'file')} cannot be used, as the errors say: {listed(named)}."] if named else []
    return [*bad, *told(found)]


def _above(path: Path) -> LeftOut:
    """Beside the folders of a dataset."""
    if path.is_dir():
        return LeftOut(path, "folder", data.why_skipped(path.name), pictures=_pictures_below(path))
    if path.suffix.lower() in data.SUFFIXES and not path.name.startswith("."):
        return LeftOut(path, "image", data.why_skipped(path.name), "Move it into such a folder to use it.")
    return _in_folder(path, set())


def _in_folder(path: Path, stems: set[str]) -> LeftOut:
    suffix = path.suffix.lower()
    if path.is_dir():
        why = "only files directly in a <repeats>_<concept> folder are used"
        return LeftOut(path, "folder", why, pictures=_pictures_below(path))
    if path.name.startswith("."):
        return LeftOut(path, "hidden file", "its name begins with a dot")
    if suffix in HEIC and suffix not in data.SUFFIXES:
        return LeftOut(path, "image", "HEIC is read with pillow-heif only", HEIC_REMEDY)
    if suffix in PICTURES:
        return LeftOut(path, "image", f"{PICTURES[suffix]} is not read", "Convert to PNG or JPEG to use.")
    if suffix in data.SUFFIXES:
        return LeftOut(path, "image", "it is not a file, or a mask without a picture")
    if suffix in TEXTS:
        return _text(path, stems)
    if suffix in LATENTS:
        return LeftOut(path, "file", "latents that another trainer cached are not read")
    return LeftOut(path, "file", "it is neither picture nor caption")


def _text(path: Path, stems: set[str]) -> LeftOut:
    """A caption that belongs to no picture, or that another one comes before."""
    if captionfile.folded(path.stem) not in stems:
        return LeftOut(path, "caption", "there is no picture of that name")
    if path.suffix.lower() in captionfile.SUFFIXES:
        return LeftOut(path, "caption", "its picture has another one")
    return LeftOut(path, "caption", f"{path.suffix} is not looked for", f'Set caption_extension = "{path.suffix}".')


def _pictures_below(folder: Path) -> int:
    count = 0
    for seen, (_, _, names) in enumerate(os.walk(folder)):
        count += sum(Path(name).suffix.lower() in data.SUFFIXES for name in names)
        if seen > MOST_LISTED:
            break
    return count


def unsendable(dataset: Dataset) -> list[str]:
    """Files whose names another computer would read otherwise: backslashes, control characters, no Unicode."""
    images = [path for image in dataset.images for path in (image.path, image.caption_path, image.mask_path)]
    folders = [folder.path for folder in dataset.folders]
    return [repr(path.name)[1:-1] for path in _once((*folders, *images)) if _odd(path.name)]


def _once(paths: Iterable[Path | None]) -> Iterator[Path]:
    yield from dict.fromkeys(path for path in paths if path is not None)


def _odd(name: str) -> bool:
    return "\\" in name or not meant(name)
