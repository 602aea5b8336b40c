"""Find images and captions in kohya's folder layout. Torch-free; pictures are opened, not decoded, here.

Below ``train_data_dir`` each folder ``<repeats>_<concept>`` holds images and, beside each, a caption of the same stem.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gpurent_engine import encodings

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))
CAPTION_SUFFIXES = (".txt", ".caption")
_FOLDER = re.compile(r"(\d+)_(.*)")
_ROTATED = (5, 6, 7, 8)
_ORIENTATION = 0x0112


class DataError(Exception):
    """The dataset cannot be trained on; ``path`` names the culprit, ``hint`` the remedy."""

    def __init__(self, path: Path, message: str, hint: str = "") -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class ImageItem:
    """One picture: ``width`` and ``height`` in pixels as a viewer shows it (EXIF rotation applied)."""

    path: Path
    width: int
    height: int
    caption: str
    caption_path: Path | None


@dataclass(frozen=True)
class Folder:
    """One concept."""

    name: str
    repeats: int
    concept: str
    images: tuple[ImageItem, ...]


@dataclass(frozen=True)
class Dataset:
    """All concepts, sorted by name."""

    root: Path
    folders: tuple[Folder, ...]
    skipped: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[ImageItem, ...]:
        """Every picture once, in order of folders and file names."""
        return tuple(image for folder in self.folders for image in folder.images)

    @property
    def repeats(self) -> tuple[int, ...]:
        """Repeats an epoch, for each of ``images``."""
        return tuple(folder.repeats for folder in self.folders for _ in folder.images)


def scan(root: Path, caption_extension: str = "") -> Dataset:
    """Read the layout, sizes and captions.

    Args:
        root: the parent of the ``<repeats>_<concept>`` folders.
        caption_extension: kohya's key; empty tries ``.txt``, then ``.caption``.

    Raises:
        DataError: no folder, no image, an image that cannot be opened, or no caption and no concept name.
    """
    layout = "Expected folders such as 10_my_concept/ with images and captions in it."
    if not root.is_dir():
        raise DataError(root, "the dataset folder does not exist." if not root.exists() else "is not a folder.", layout)
    folders, skipped = [], []
    for path in sorted(root.iterdir()):
        match = _FOLDER.fullmatch(path.name)
        if path.is_dir() and match and int(match[1]) > 0:
            folders.append(_folder(path, int(match[1]), match[2], caption_extension))
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            skipped.append(path.name)
    if not folders:
        extra = f" Found instead: {', '.join(skipped[:5])}." if skipped else ""
        raise DataError(root, f"holds no folder named <repeats>_<concept>.{extra}", layout)
    return Dataset(root, tuple(folders), tuple(skipped))


def _folder(path: Path, repeats: int, concept: str, extension: str) -> Folder:
    pictures = sorted(file for file in path.iterdir() if _is_picture(file))
    if not pictures:
        raise DataError(path, "holds no image.", f"Put images ({', '.join(sorted(SUFFIXES))}) into it or remove it.")
    stems: dict[str, Path] = {}
    for picture in pictures:
        if picture.stem in stems:
            raise DataError(picture, f"shares its caption with {stems[picture.stem].name}.", "Rename one of the two.")
        stems[picture.stem] = picture
    return Folder(path.name, repeats, concept, tuple(_image(picture, concept, extension) for picture in pictures))


def _is_picture(file: Path) -> bool:
    """Hidden files are none: macOS writes ``._name.png`` beside every ``name.png`` on a foreign disk."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _image(path: Path, concept: str, extension: str) -> ImageItem:
    width, height = _size(path)
    caption, source = _caption(path, concept, extension)
    return ImageItem(path, width, height, caption, source)


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_ORIENTATION) in _ROTATED
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(path, f"cannot be read as an image ({error}).", "Replace it or take it out.") from error
    return (height, width) if turned else (width, height)


def caption_suffixes(extension: str) -> tuple[str, ...]:
    """What captions end in, by kohya's ``caption_extension``; in the order in which they are looked for."""
    if not extension:
        return CAPTION_SUFFIXES
    return (extension if extension.startswith(".") else f".{extension}",)


def _caption(path: Path, concept: str, extension: str) -> tuple[str, Path | None]:
    suffixes = caption_suffixes(extension)
    for suffix in suffixes:
        file = path.with_suffix(suffix)
        if file.is_file():
            try:
                text = encodings.utf8(file.read_bytes()).strip()
            except UnicodeDecodeError as error:
                hint = f"Convert the captions of its folder: {encodings.conversion(error.reason, suffix)}"
                raise DataError(file, f"is {error.reason} text, not UTF-8.", hint) from error
            if not text:
                raise DataError(file, "is empty.", "Describe the image in it, or remove it to use the folder's name.")
            return text.splitlines()[0].strip(), file
    fallback = concept.replace("_", " ").strip()
    if not fallback:
        wanted = " or ".join(path.with_suffix(suffix).name for suffix in suffixes)
        raise DataError(path, "has no caption, and its folder's name gives none.", f"Write {wanted} beside it.")
    return fallback, None
