"""Files of a dataset that nothing will be trained on, named with the reason. Nothing is passed over in silence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gpurent.words import counted
from gpurent_engine.data import Dataset

NAMED = 5
PICTURES = {
    ".heic": "HEIC", ".heif": "HEIC", ".jxl": "JPEG XL", ".psd": "Photoshop", ".svg": "SVG",
    ".dng": "raw", ".cr2": "raw", ".nef": "raw", ".arw": "raw", ".ico": "ICO", ".tga": "TGA",
}  # fmt: skip
"""Pictures in formats that are not read."""
TEXTS = frozenset((".txt", ".caption"))
OF_SYSTEMS = frozenset(("thumbs.db", "desktop.ini", ".ds_store"))


def left_out(dataset: Dataset) -> list[str]:
    """One sentence for each reason why files beside the pictures are not used."""
    used = {image.path for image in dataset.images} | {image.caption_path for image in dataset.images}
    by_format: dict[str, list[str]] = {}
    hidden, alone, folders, others = [], [], [], []
    for path in _beside(dataset):
        suffix = path.suffix.lower()
        if path in used or path.name.lower() in OF_SYSTEMS:
            continue
        name = path.relative_to(path.parents[1]).as_posix()
        if path.is_dir():
            folders.append(name)
        elif path.name.startswith("."):
            hidden.append(name)
        elif suffix in PICTURES:
            by_format.setdefault(PICTURES[suffix], []).append(name)
        elif suffix in TEXTS:
            alone.append(name)
        else:
            others.append(name)
    return [
        *(
            _sentence(names, "image", f"{kind} is not read", "Convert to PNG or JPEG to use.")
            for kind, names in sorted(by_format.items())
        ),
        *_told(hidden, "hidden file", "macOS writes such beside every picture"),
        *_told(alone, "caption", "there is no picture of that name"),
        *_told(folders, "folder", "only files directly in a <repeats>_<concept> folder are used"),
        *_told(others, "file", "it is neither picture nor caption"),
    ]


def unsendable(dataset: Dataset) -> list[str]:
    """Files whose names another computer would read otherwise: backslashes, control characters, no Unicode."""
    files = [path for one in dataset.images for path in (one.path, one.caption_path) if path is not None]
    folders = [one.path for one in dataset.folders]
    return [repr(path.name)[1:-1] for path in (*folders, *files) if _odd(path.name)]


def _odd(name: str) -> bool:
    return "\\" in name or not name.isprintable() or not _encodable(name)


def _encodable(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # bytes that are no UTF-8, as the file system gives them
        return False
    return True


def _beside(dataset: Dataset) -> Iterator[Path]:
    for folder in dataset.folders:
        yield from sorted(folder.path.iterdir())


def _told(names: list[str], what: str, why: str) -> Iterable[str]:
    return [_sentence(names, what, why, "")] if names else []


def _sentence(names: list[str], what: str, why: str, remedy: str) -> str:
    rest = len(names) - NAMED
    listed = ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return f"{counted(len(names), what)} left out, because {why}: {listed}. {remedy}".rstrip()
