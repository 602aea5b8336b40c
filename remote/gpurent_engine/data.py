"""Find images and captions in kohya's folder layout. Torch-free; pictures are opened, not decoded, here.

Below ``train_data_dir`` each folder ``<repeats>_<concept>`` holds images and, beside each, a caption of the same stem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpurent_engine import captionfile, encodings, pictures
from gpurent_engine.spec import Subset, TrainSpec

SUFFIXES = pictures.SUFFIXES
_FOLDER = re.compile(r"(\d+)_(.*)", re.DOTALL)
OF_SYSTEMS = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "__macosx", ".directory"))
"""Names, in lower case, of what operating systems leave in folders."""


class DataError(Exception):
    """The dataset cannot be trained on; ``path`` names the culprit, ``hint`` the remedy.

    ``others`` are the further errors of the same dataset.
    """

    def __init__(self, path: Path, message: str, hint: str = "", others: tuple[DataError, ...] = ()) -> None:
        rest = f" So {'is' if len(others) == 1 else 'are'} {len(others)} more." if others else ""
        super().__init__(f"{path}: {message}{rest}")
        self.path = path
        self.message = message
        self.hint = hint
        self.others = others


def together(errors: Sequence[DataError]) -> DataError:
    """The first error, with the others in it."""
    first = errors[0]
    return DataError(first.path, first.message, first.hint, tuple(errors[1:]))


@dataclass(frozen=True)
class ImageItem:
    """One picture: ``width`` and ``height`` in pixels as a viewer shows it (EXIF rotation applied)."""

    path: Path
    width: int
    height: int
    caption: str
    caption_path: Path | None
    mask_path: Path | None = None
    caption_notes: tuple[str, ...] = ()
    """What is odd about the caption's file, each a phrase that follows its name."""


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
    captions: Path | None = None
    """JSON that has the captions of all of its pictures."""


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


def scan(
    root: Path, caption_extension: str = "", spec: TrainSpec | None = None, wrong: list[DataError] | None = None
) -> Dataset:  # fmt: skip
    """Read the layout, sizes and captions.

    Args:
        root: the parent of the ``<repeats>_<concept>`` folders.
        caption_extension: kohya's key; empty tries ``.txt``, then ``.caption``.
        spec: the training, where it names its folders or reads captions of several lines.
        wrong: takes the errors of single files and folders, which are then left out; without it they are raised.

    Raises:
        DataError: no folder, no image, an image that cannot be opened, or no caption and no concept name; ``others``
            has the further errors.
    """
    errors: list[DataError] = []
    if spec is not None and spec.subsets:
        folders = [_subset(root, one, spec, errors) for one in spec.subsets]
        found = Dataset(root, tuple(one for one in folders if one is not None), by_name=False)
    else:
        found = _by_names(root, caption_extension, spec, errors)
    if errors and wrong is None:
        raise together(errors)
    if wrong is not None:
        wrong += errors
    return found


def _by_names(root: Path, extension: str, spec: TrainSpec | None, wrong: list[DataError]) -> Dataset:
    layout = "Expected folders such as 10_my_concept/ with images and captions in it."
    if not root.is_dir():
        raise DataError(root, "the dataset folder does not exist." if not root.exists() else "is not a folder.", layout)
    folders, skipped = [], []
    for path in sorted(root.iterdir()):
        if path.is_dir() and repeats_of(path.name):
            found = Folder(path.name, repeats_of(path.name), concept_of(path.name), (), path)
            folders.append(replace(found, images=_images(found, extension, spec, wrong)))
        elif not junk(path) and (path.is_dir() or path.suffix.lower() in SUFFIXES):
            skipped.append(path.name)
    if not folders:
        extra = f" Found instead: {', '.join(skipped[:5])}." if skipped else ""
        raise DataError(root, f"holds no folder named <repeats>_<concept>.{extra}", _level(root, skipped) or layout)
    return Dataset(root, tuple(folders), tuple(skipped))


def _level(root: Path, skipped: Sequence[str]) -> str:
    """What to do where the folders are there, one level higher or lower."""
    if repeats_of(root.name) and any(Path(one).suffix.lower() in SUFFIXES for one in skipped):
        return f"Name its parent instead: {root.parent}"
    for name in skipped:
        inner = root / name
        if inner.is_dir() and any(one.is_dir() and repeats_of(one.name) for one in inner.iterdir()):
            return f"Name {inner} instead, which holds such folders."
    if any(Path(one).suffix.lower() in SUFFIXES for one in skipped):
        return "Put the images into a folder such as 10_my_concept/ in it: 10 is how often an epoch shows each."
    return ""


def repeats_of(name: str) -> int:
    """Repeats in the name of a folder; 0 where it is not named so, or says 0, which leaves it out as in kohya."""
    match = _FOLDER.fullmatch(name)
    return int(match[1]) if match else 0


def concept_of(name: str) -> str:
    """What the name of such a folder says after its repeats."""
    return name.partition("_")[2]


def why_skipped(name: str) -> str:
    """Why something beside the folders of a dataset is not used."""
    if _FOLDER.fullmatch(name):
        return "its name says 0 repeats"
    return "it is not in a folder named <repeats>_<concept>"


def junk(path: Path) -> bool:
    """Whether an operating system left it there: ``._a.png`` of macOS, ``Thumbs.db`` of Windows."""
    return path.name.lower() in OF_SYSTEMS or path.name.startswith("._")


def _subset(root: Path, subset: Subset, spec: TrainSpec, wrong: list[DataError]) -> Folder | None:
    path = root / subset.folder
    own = spec.of(subset.settings)
    found = Folder(
        name=subset.name,
        repeats=subset.repeats,
        concept=subset.concept,
        images=(),
        path=path,
        regular=subset.regular,
        group=subset.group,
        settings=subset.settings,
    )
    if not path.is_dir():
        hint = "Name an existing folder as image_dir; it starts at the file's own."
        wrong.append(DataError(path, "is not a folder.", hint))
        return None
    masks = root / subset.mask_folder if subset.mask_folder else None
    listed = file = None
    if subset.metadata_file:
        file = root / subset.metadata_file
        try:
            listed = captionfile.from_metadata(file)
        except (OSError, ValueError, RecursionError) as error:
            wrong.append(DataError(file, f"cannot be read as captions ({error}).", "Name the JSON of a tagger."))
            return None
    images = _images(replace(found, captions=file), own.caption_extension, own, wrong, masks=masks, listed=listed)
    return replace(found, images=images, captions=file)


def _images(
    folder: Folder, extension: str, spec: TrainSpec | None, wrong: list[DataError], *, masks: Path | None = None,
    listed: Mapping[str, captionfile.Text] | None = None,
) -> tuple[ImageItem, ...]:  # fmt: skip
    path = folder.path
    files = sorted(path.iterdir())
    pictures = [file for file in files if _is_picture(file)]
    if not pictures:
        hint = f"Put images ({', '.join(sorted(SUFFIXES))}) into it or remove it."
        wrong.append(DataError(path, "holds no image.", hint))
    stems: dict[str, Path] = {}
    found = []
    beside = captionfile.names(files)
    for picture in pictures:
        first = stems.setdefault(picture.stem, picture)
        if first != picture:
            wrong.append(DataError(picture, f"shares its caption with {first.name}.", "Rename one of the two."))
            continue
        if listed is None:
            image = _tried(lambda: _image(picture, folder.concept, extension, beside, masks=masks, spec=spec), wrong)  # noqa: B023
        else:
            image = _tried(lambda: _of_list(picture, folder.captions, listed, masks), wrong)  # noqa: B023
        found += [image] if image is not None else []
    return tuple(found)


def _tried(act: Callable[[], ImageItem], wrong: list[DataError]) -> ImageItem | None:
    try:
        return act()
    except DataError as error:
        wrong.append(error)
        return None


def _is_picture(file: Path) -> bool:
    """Hidden files are none: macOS writes ``._name.png`` beside every ``name.png`` on a foreign disk."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _image(
    path: Path, concept: str, extension: str, beside: captionfile.Names, *, masks: Path | None, spec: TrainSpec | None
) -> ImageItem:  # fmt: skip
    width, height = _size(path)
    source = captionfile.find(path, extension, beside)
    text = _default(path, concept, extension) if source is None else _read(source, spec)
    mask = _mask(path, masks) if masks is not None else None
    return ImageItem(
        path=path,
        width=width,
        height=height,
        caption=text.text,
        caption_path=source,
        mask_path=mask,
        caption_notes=text.notes,
    )


def _of_list(
    path: Path, source: Path | None, listed: Mapping[str, captionfile.Text], masks: Path | None
) -> ImageItem:  # fmt: skip
    width, height = _size(path)
    text = listed.get(captionfile.folded(path.stem), captionfile.Text("")).text
    if not text:
        raise DataError(path, "has no caption in the JSON.", "Tag it, or move it out of the folder.")
    return ImageItem(
        path=path,
        width=width,
        height=height,
        caption=text,
        caption_path=source,
        mask_path=_mask(path, masks) if masks is not None else None,
    )


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


def _default(path: Path, concept: str, extension: str) -> captionfile.Text:
    fallback = concept.replace("_", " ").strip()
    if not fallback:
        wanted = " or ".join(path.with_suffix(suffix).name for suffix in captionfile.suffixes(extension))
        raise DataError(path, "has no caption, and its folder's name gives none.", f"Write {wanted} beside it.")
    return captionfile.Text(fallback)


def _read(file: Path, spec: TrainSpec | None) -> captionfile.Text:
    lines, separator = (False, ",") if spec is None else (spec.enable_wildcard, spec.caption_separator)
    try:
        found = captionfile.read(file.read_bytes(), lines=lines, separator=separator)
    except UnicodeDecodeError as error:
        hint = f"Convert the captions of its folder: {encodings.conversion(error.reason, file.suffix)}"
        raise DataError(file, f"is {error.reason} text, not UTF-8.", hint) from error
    except OSError as error:
        raise DataError(file, f"cannot be read ({error.strerror or error}).", "Check who may read it.") from error
    if not found.text:
        raise DataError(file, "is empty.", "Describe the image in it, or remove it to use the folder's name.")
    return found
