"""Find images and captions in kohya's folder layout. Torch-free; pictures are opened, not decoded, here.

Below ``train_data_dir`` each folder ``<repeats>_<concept>`` holds images and, beside each, a caption of the same stem.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpurent_engine import encodings, pictures
from gpurent_engine.spec import Subset, TrainSpec

SUFFIXES = pictures.SUFFIXES
CAPTION_SUFFIXES = (".txt", ".caption")
_FOLDER = re.compile(r"(\d+)_(.*)")


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
    mask_path: Path | None = None


@dataclass(frozen=True)
class Folder:
    """One concept."""

    name: str
    repeats: int
    concept: str
    images: tuple[ImageItem, ...]
    path: Path = Path()
    regular: bool = False
    """Regularisation images: see ``spec.Subset``, as for the next two."""
    group: int = 0
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Dataset:
    """All concepts, sorted by name."""

    root: Path
    folders: tuple[Folder, ...]
    skipped: tuple[str, ...] = ()
    by_name: bool = True
    """Whether the folders were found in ``root`` by their names; else each was named by itself."""

    @property
    def images(self) -> tuple[ImageItem, ...]:
        """Every picture once, in order of folders and file names."""
        return tuple(image for folder in self.folders for image in folder.images)

    @property
    def kinds(self) -> tuple[tuple[int, tuple[tuple[str, Any], ...]], ...]:
        """Group and settings of each of ``images``; empty where all are alike."""
        if not any(folder.group or folder.settings for folder in self.folders):
            return ()
        return tuple((folder.group, folder.settings) for folder in self.owners)

    @property
    def owners(self) -> tuple[Folder, ...]:
        """The folder of each of ``images``."""
        return tuple(folder for folder in self.folders for _ in folder.images)

    @property
    def repeats(self) -> tuple[int, ...]:
        """How often each of ``images`` comes in an epoch.

        Regularisation images are repeated, or left out, until there are as many of them as of the others in the same
        group (kohya-ss/sd-scripts ``library/train_util.py``, DreamBoothDataset).
        """
        owners = self.owners
        found = [folder.repeats for folder in owners]
        for group in {folder.group for folder in owners if folder.regular}:
            members = [i for i, folder in enumerate(owners) if folder.regular and folder.group == group]
            wanted = sum(
                one.repeats * len(one.images) for one in self.folders if one.group == group and not one.regular
            )
            for index, count in zip(members, balanced([found[i] for i in members], wanted), strict=True):
                found[index] = count
        return tuple(found)


def balanced(repeats: Sequence[int], wanted: int) -> list[int]:
    """How often each regularisation image comes, so that all together come ``wanted`` times."""
    found = [0] * len(repeats)
    count = 0
    while count < wanted and repeats:
        first = not any(found)
        for index, times in enumerate(repeats):
            found[index] += times if first else 1
            count += times if first else 1
            if count >= wanted:
                break
    return found


def scan(root: Path, caption_extension: str = "", spec: TrainSpec | None = None) -> Dataset:
    """Read the layout, sizes and captions.

    Args:
        root: the parent of the ``<repeats>_<concept>`` folders.
        caption_extension: kohya's key; empty tries ``.txt``, then ``.caption``.
        spec: the training, where it names its folders or reads captions of several lines.

    Raises:
        DataError: no folder, no image, an image that cannot be opened, or no caption and no concept name.
    """
    layout = "Expected folders such as 10_my_concept/ with images and captions in it."
    if spec is not None and spec.subsets:
        return Dataset(root, tuple(_subset(root, one, spec) for one in spec.subsets), by_name=False)
    if not root.is_dir():
        raise DataError(root, "the dataset folder does not exist." if not root.exists() else "is not a folder.", layout)
    folders, skipped = [], []
    for path in sorted(root.iterdir()):
        match = _FOLDER.fullmatch(path.name)
        if path.is_dir() and match and int(match[1]) > 0:
            found = Folder(path.name, int(match[1]), match[2], (), path)
            folders.append(replace(found, images=_images(found, caption_extension, spec)))
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            skipped.append(path.name)
    if not folders:
        extra = f" Found instead: {', '.join(skipped[:5])}." if skipped else ""
        raise DataError(root, f"holds no folder named <repeats>_<concept>.{extra}", layout)
    return Dataset(root, tuple(folders), tuple(skipped))


def _subset(root: Path, subset: Subset, spec: TrainSpec) -> Folder:
    path = root / subset.folder
    if not path.is_dir():
        raise DataError(path, "is not a folder.", "Name an existing folder as image_dir; it starts at the file's own.")
    own = spec.of(subset.settings)
    found = Folder(
        subset.name, subset.repeats, subset.concept, (), path, subset.regular, subset.group, subset.settings
    )  # fmt: skip
    masks = root / subset.mask_folder if subset.mask_folder else None
    return replace(found, images=_images(found, own.caption_extension, own, masks))


def _images(
    folder: Folder, extension: str, spec: TrainSpec | None, masks: Path | None = None
) -> tuple[ImageItem, ...]:  # fmt: skip
    path = folder.path
    pictures = sorted(file for file in path.iterdir() if _is_picture(file))
    if not pictures:
        raise DataError(path, "holds no image.", f"Put images ({', '.join(sorted(SUFFIXES))}) into it or remove it.")
    stems: dict[str, Path] = {}
    for picture in pictures:
        if picture.stem in stems:
            raise DataError(picture, f"shares its caption with {stems[picture.stem].name}.", "Rename one of the two.")
        stems[picture.stem] = picture
    lines = spec is not None and spec.enable_wildcard
    return tuple(_image(picture, folder.concept, extension, masks, lines=lines) for picture in pictures)


def _is_picture(file: Path) -> bool:
    """Hidden files are none: macOS writes ``._name.png`` beside every ``name.png`` on a foreign disk."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _image(path: Path, concept: str, extension: str, masks: Path | None, *, lines: bool) -> ImageItem:
    width, height = _size(path)
    caption, source = _caption(path, concept, extension, lines=lines)
    return ImageItem(path, width, height, caption, source, _mask(path, masks) if masks is not None else None)


def _mask(path: Path, masks: Path) -> Path:
    found = next((masks / f"{path.stem}{suffix}" for suffix in sorted(SUFFIXES)
                  if (masks / f"{path.stem}{suffix}").is_file()), None)  # fmt: skip
    if found is None:
        raise DataError(path, f"has no mask in {masks}.", f"Put {path.stem}.png there: white counts, black does not.")
    return found


def _size(path: Path) -> tuple[int, int]:
    try:
        return pictures.size(path)
    except pictures.Unreadable as error:
        raise DataError(path, f"{error}.", "Replace it or take it out.") from error


def caption_suffixes(extension: str) -> tuple[str, ...]:
    """What captions end in, by kohya's ``caption_extension``; in the order in which they are looked for."""
    if not extension:
        return CAPTION_SUFFIXES
    return (extension if extension.startswith(".") else f".{extension}",)


def _caption(path: Path, concept: str, extension: str, *, lines: bool) -> tuple[str, Path | None]:
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
            found = [line.strip() for line in text.splitlines() if line.strip()]
            return "\n".join(found) if lines else found[0], file
    fallback = concept.replace("_", " ").strip()
    if not fallback:
        wanted = " or ".join(path.with_suffix(suffix).name for suffix in suffixes)
        raise DataError(path, "has no caption, and its folder's name gives none.", f"Write {wanted} beside it.")
    return fallback, None
