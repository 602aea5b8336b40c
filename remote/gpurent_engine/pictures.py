"""Opening a picture: what the file holds, turned into 8-bit sRGB over white. Torch-free.

The client checks a dataset with this very code, and the engine reads it with the same on the rented machine: what was
accepted at home cannot be refused, or come out otherwise, there.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image as Images

HEIC = frozenset((".heic", ".heif"))
HEIC_PACKAGE = "pillow-heif"
"""What reads HEIC, as phones write it; Pillow itself does not. A dataset without such files does not need it."""
SUFFIXES = frozenset((
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif",
)) | (HEIC if find_spec("pillow_heif") else frozenset())  # fmt: skip
MOST_PIXELS = 400_000_000
"""Of one picture; 400 megapixels take 1.2 GB of memory when they are decoded."""
WHITE_16 = 65535
SAME = 2
"""Levels of 255 between the darkest and the lightest value of a picture that counts as blank."""
ORIENTATION = 0x0112
_ROTATED = (5, 6, 7, 8)
_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class Unreadable(Exception):
    """The file is not a picture that can be used; ``str()`` says why."""


@dataclass(frozen=True)
class Opened:
    """A picture as the training sees it."""

    image: Images.Image
    """8-bit RGB, as a viewer shows it: turned by its EXIF data, in sRGB, over white."""
    alpha: Images.Image | None
    """8-bit, where the file has transparency."""
    notes: tuple[str, ...] = ()
    """What its owner may want to know, each a phrase that follows the file's name."""


def size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as a viewer shows it; the picture is not decoded.

    Raises:
        Unreadable: it is not a picture, or larger than can be used.
    """
    with _opened(path) as picture:
        width, height = picture.size
        try:  # a PNG may have its EXIF data behind the picture
            turned = picture.getexif().get(ORIENTATION) in _ROTATED
        except _errors() as error:
            raise Unreadable(f"cannot be decoded ({_said(error)})") from error
    return (height, width) if turned else (width, height)


def verify(source: IO[bytes]) -> None:
    """Look at the checksums in a file, where its format has some; decoding alone passes over them.

    Raises:
        Unreadable: one is wrong, or it is not a picture.
    """
    with _opened(source) as picture:
        try:
            picture.verify()
        except _errors() as error:
            raise Unreadable(f"cannot be decoded ({_said(error)})") from error


def read(source: Path | IO[bytes]) -> Opened:
    """Decode a picture.

    Raises:
        Unreadable: it is damaged, larger than can be used, or of a kind that has no one meaning as RGB.
    """
    from PIL import Image, ImageOps

    notes: list[str] = []
    with _opened(source) as file:
        try:
            frames = getattr(file, "n_frames", 1)
            if frames > 1 and file.format != "MPO":  # phones put a preview behind the photograph
                notes.append(f"is animated or has several pages; the first of {frames} is used")
            profile = file.info.get("icc_profile")
            picture = ImageOps.exif_transpose(file)
            picture.load()
        except _errors() as error:
            raise Unreadable(f"cannot be decoded ({_said(error)})") from error
    picture = _eight_bits(picture)
    alpha = None
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        alpha = whole.getchannel("A")
        picture = whole.convert("RGB") if picture.mode not in ("LA", "La") else whole.getchannel("R")
    picture = _in_srgb(picture, profile, notes)
    if alpha is not None:
        if alpha.getextrema() == (0, 0):
            notes.append("is wholly transparent")
        picture = Image.composite(picture, Image.new("RGB", picture.size, "white"), alpha)
    if _blank(picture):
        notes.append("is blank, of one colour throughout")
    return Opened(picture, alpha, tuple(notes))


def _opened(source: Path | IO[bytes]) -> Any:
    from PIL import Image

    # Pillow's own limit is a guard against bombs, and stops panoramas; ours is checked below, before any decoding.
    Image.MAX_IMAGE_PIXELS = 5 * MOST_PIXELS
    # It warns of odd EXIF entries on stderr, which names no file; what they say is not used. What is used, and cannot
    # be decoded, is an error.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    _with_heic()
    try:
        picture = Image.open(source)
    except _errors() as error:
        raise Unreadable(f"cannot be read as an image ({_said(error)})") from error
    width, height = picture.size
    if width * height > MOST_PIXELS:
        picture.close()
        raise Unreadable(f"has {width * height / 1e6:.0f} megapixels; {MOST_PIXELS / 1e6:.0f} are the most")
    return picture


@cache
def _with_heic() -> None:
    """Let Pillow read HEIC, where the package for it is installed. It turns such pictures upright by itself."""
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _errors() -> tuple[type[Exception], ...]:
    from PIL import Image, UnidentifiedImageError

    return (
        UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError,
        RuntimeError, MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning,
    )  # fmt: skip


def _said(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own words repeat the file's name
        return "its content is of no format that is read"
    return str(error).rstrip(".") or type(error).__name__


def _eight_bits(picture: Images.Image) -> Images.Image:
    """Grey of 16 bits or more in 8; Pillow's own conversion cuts off what is over 255, which gives a white sheet."""
    if picture.mode == "F":
        low, high = picture.getextrema()
        if not (isinstance(low, float) and isinstance(high, float) and -0.01 <= low <= high <= 1.01):
            raise Unreadable("holds floating-point values outside of 0 to 1, which have no one meaning as a picture")
        return picture.point(lambda value: value * 255 + 0.5).convert("L")
    if picture.mode not in _WIDE:
        return picture
    wide = picture.convert("I")
    low, high = wide.getextrema()
    if not (isinstance(low, int | float) and isinstance(high, int | float) and 0 <= low <= high <= WHITE_16):
        raise Unreadable("holds values beyond 16 bits, which have no one meaning as a picture")
    return wide.point(lambda value: value * (255 / WHITE_16) + 0.5).convert("L")


def _in_srgb(picture: Images.Image, profile: bytes | None, notes: list[str]) -> Images.Image:
    """RGB in sRGB, by the colour profile in the file if it has one (ICC.1:2022; littleCMS through Pillow)."""
    if not profile:
        return picture.convert("RGB")
    from PIL import ImageCms

    if picture.mode not in ("RGB", "L", "CMYK", "LAB"):
        picture = picture.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower() and picture.mode == "RGB":
            return picture
        found = ImageCms.profileToProfile(
            picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        notes.append(f"has a colour profile that cannot be used ({_said(error)}); its values are taken for sRGB")
        return picture.convert("RGB")
    assert found is not None  # it is None only where the picture itself is changed
    return found


def _blank(picture: Images.Image) -> bool:
    return all(high - low <= SAME for low, high in picture.getextrema())  # type: ignore[misc]


def fitted(
    picture: Images.Image, resized: tuple[int, int], crop: tuple[int, int], size: tuple[int, int], *, interpolation: str
) -> Images.Image:  # fmt: skip
    """Scaled to ``resized``, then cut to ``size`` from ``crop`` (left, top) on."""
    if picture.size != resized:
        picture = picture.resize(resized, resampling(interpolation))
    (left, top), (width, height) = crop, size
    return picture.crop((left, top, left + width, top + height))


def resampling(name: str) -> Any:
    """Pillow's filter for kohya's ``resize_interpolation``; ``area`` is the mean over the covered pixels."""
    from PIL import Image

    kinds = {
        "": Image.Resampling.LANCZOS, "lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR, "linear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC, "cubic": Image.Resampling.BICUBIC, "area": Image.Resampling.BOX,
    }  # fmt: skip
    return kinds[name]
