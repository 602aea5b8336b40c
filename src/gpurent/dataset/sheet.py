"""A contact sheet: every picture as the training will see it, cropped in its bucket, with its caption below."""

from __future__ import annotations

import math
import os
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpurent.dataset.survey import Survey
from gpurent.errors import DatasetError, UsageError
from gpurent.tasks import parallel
from gpurent_engine import pictures
from gpurent_engine.buckets import Placement
from gpurent_engine.data import ImageItem
from gpurent_engine.spec import TrainSpec

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EDGES = ((60, 256), (300, 192), (1000, 128), (MOST := 3000, 96))
"""Pixels along a picture's longer side, by how many pictures there are at most; further pictures are not drawn."""
LEAST = 128
"""Room for a caption under pictures that are smaller themselves."""
WIDEST = 4096
"""Pixels."""
LINES = 4
"""Of a caption."""
TEXT, GAP = 12, 8
PAPER, INK, FAINT = "white", "black", "#666666"
_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc", "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc", "/usr/share/fonts/truetype/nanum/NanumGothic.ttf",
    "/System/Library/Fonts/AppleSDGothicNeo.ttc", "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "/System/Library/Fonts/ヒラギノ角ゴシック W3.ttc", "/System/Library/Fonts/PingFang.ttc",
    r"C:\Windows\Fonts\malgun.ttf", r"C:\Windows\Fonts\YuGothR.ttc", r"C:\Windows\Fonts\msyh.ttc",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", r"C:\Windows\Fonts\arial.ttf",
)  # fmt: skip
"""Fonts with more scripts than Pillow's own, where systems keep them."""


@dataclass(frozen=True)
class Sheet:
    """What was written."""

    path: Path
    drawn: int
    left: int
    """Pictures beyond ``MOST``."""
    unknown: bool
    """Whether captions have letters that no font at hand has."""


@dataclass(frozen=True)
class _Tile:
    picture: Image | None
    lines: tuple[str, ...]


def write(found: Survey, path: Path) -> Sheet:
    """Draw the sheet of a survey.

    Raises:
        UsageError: the suffix is none of ``SUFFIXES``.
        DatasetError: there is no picture to draw, or the file cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is not a name for a picture.", hint=f"Use one that ends in {', '.join(SUFFIXES)}.")
    if found.dataset is None or found.spec is None or not found.dataset.images:
        raise DatasetError("There is no picture for a contact sheet.", hint="`gpurent check` says what is wrong.")
    spec, images = found.spec, found.dataset.images[:MOST]
    specs = [spec.of(folder.settings) for folder in found.dataset.owners]
    largest = max(max(placement.bucket) for placement in found.placements)
    edge = min(next(edge for most, edge in EDGES if len(images) <= most), max(LEAST, largest))
    font, complete = _font([image.caption for image in images])
    work = zip(images, found.placements, specs, strict=False)
    tiles = list(parallel(lambda task: _tile(*task, edge, font=font), list(work)))
    sheet = _laid_out(tiles, edge, font)
    try:
        _save(sheet, path)
    except OSError as error:
        said = f"{path} cannot be written: {error.strerror or error}."
        raise DatasetError(said, hint="Name a file in a folder that is there.") from error
    return Sheet(path, len(images), len(found.dataset.images) - len(images), not complete)


def _tile(image: ImageItem, placement: Placement, spec: TrainSpec, edge: int, *, font: Any) -> _Tile:
    width, height = placement.bucket
    try:
        seen = pictures.fitted(
            pictures.read(image.path).image, placement.resized, placement.crop, placement.bucket,
            interpolation=spec.resize_interpolation,
        )  # fmt: skip
        seen.thumbnail((edge, edge))
    except (pictures.Unreadable, OSError, ValueError):
        seen = None
    said = f"{image.path.name}  {width} x {height}" if seen is not None else f"{image.path.name} cannot be used"
    return _Tile(seen, (*_wrapped(said, edge, font, 1), *_wrapped(image.caption, edge, font, LINES)))


def _wrapped(text: str, width: int, font: Any, most: int) -> Iterator[str]:
    """Lines that fit, the last with an ellipsis where there would be more."""
    shown = "".join(char if unicodedata.category(char)[0] != "C" else " " for char in text)
    for number in range(1, most + 1):
        end = len(shown)
        while end > 1 and font.getlength(shown[:end]) > width:
            end = min(end - 1, int(end * width / font.getlength(shown[:end])) + 1)
        if end < len(shown):
            space = shown.rfind(" ", 0, end + 1)
            end = space if space > end // 2 else end
        line, shown = shown[:end], shown[end:].lstrip()
        yield line + "…" if shown and number == most else line
        if not shown:
            return


def _laid_out(tiles: Sequence[_Tile], edge: int, font: Any) -> Image:
    from PIL import Image as Images
    from PIL import ImageDraw

    step = edge + GAP
    columns = max(1, min(math.ceil(math.sqrt(len(tiles) * 1.4)), WIDEST // step, len(tiles)))
    rows = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
    line = TEXT + 3
    heights = [
        max(tile.picture.height if tile.picture else edge // 2 for tile in row)
        + max(len(tile.lines) for tile in row) * line
        for row in rows
    ]
    sheet = Images.new("RGB", (columns * step + GAP, sum(heights) + GAP * (2 * len(rows) + 1)), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        base = top + height - max(len(tile.lines) for tile in row) * line
        for number, tile in enumerate(row):
            left = GAP + number * step
            if tile.picture is not None:
                sheet.paste(tile.picture, (left + (edge - tile.picture.width) // 2, base - tile.picture.height))
            else:
                draw.rectangle((left, top, left + edge, base), outline=FAINT)
            for at, text in enumerate(tile.lines):
                draw.text((left, base + 3 + at * line), text, font=font, fill=INK if at else FAINT)
        top += height + 2 * GAP
    return sheet


def _font(captions: Sequence[str]) -> tuple[Any, bool]:
    """A font that has the letters of all captions, and whether it has."""
    from PIL import ImageFont

    letters = sorted({char for text in captions for char in text if ord(char) > 126 and char.isprintable()})
    usual = ImageFont.load_default(size=TEXT)
    if _has(usual, letters):
        return usual, True
    best, most = usual, 0
    for name in _FONTS:
        if not Path(name).is_file():
            continue
        try:
            font = ImageFont.truetype(name, TEXT)
        except OSError:
            continue
        if _has(font, letters):
            return font, True
        count = sum(_has(font, [letter]) for letter in letters[:200])
        best, most = (font, count) if count > most else (best, most)
    return best, False


def _has(font: Any, letters: Sequence[str]) -> bool:
    """Whether a font has all of them: what it lacks looks like what no font has."""
    missing = bytes(font.getmask("\U0010fffe"))
    return all(bytes(font.getmask(letter)) != missing for letter in letters)


def _save(sheet: Image, path: Path) -> None:
    """Whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        sheet.save(name, quality=90)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
