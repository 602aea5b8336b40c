"""What is drawn at random of a picture each time it is shown: its crop and its colours. Torch-free.

As in kohya-ss/sd-scripts ``library/train_util.py`` (trim_and_resize_if_required, crop_target, AugHelper): with buckets,
``random_crop`` moves the crop of the scaled picture; without them, it cuts the training size out of the picture as it
is. ``face_crop_aug_range`` works without buckets, on pictures whose names end in the place of a face.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpurent_engine.buckets import Placement, Size
from gpurent_engine.spec import TrainSpec

if TYPE_CHECKING:
    from PIL import Image

SHARE = 0.33
"""Of the pictures, how many ``color_aug`` changes: half in hue, half in brightness."""
HUE = 16 / 360
"""Of the colour circle, to either side: 8 of the 180 steps that OpenCV has."""
GAMMA = 0.05
"""Exponents lie between 1 - this and 1 + this. They are applied to values of 0 to 255, as there."""
FACE = 40
"""Pixels of a face from which on its crop is moved a little."""


@dataclass(frozen=True)
class Cut:
    """A size in pixels to scale to, and left and top of what is cut from it."""

    resized: Size
    crop: Size


@dataclass(frozen=True)
class Face:
    """Centre and size of a face, pixels of the picture."""

    x: int
    y: int
    width: int
    height: int


def live(spec: TrainSpec, path: Path) -> bool:
    """Whether a picture looks different each time it is shown, mirroring aside: it is then encoded each time."""
    return spec.random_crop or spec.color_aug or face_of(spec, path) is not None


def face_of(spec: TrainSpec, path: Path) -> Face | None:
    """The face that a name such as ``photo_310_220_96_96.png`` tells of: x and y of its centre, width, height."""
    if not spec.face_crop_aug_range or spec.enable_bucket:
        return None
    words = path.stem.split("_")
    if len(words) < 5 or not all(one.isdecimal() for one in words[-4:]):
        return None
    x, y, width, height = map(int, words[-4:])
    return Face(x, y, width, height) if x and max(width, height) else None


def cut(image: Size, placement: Placement, spec: TrainSpec, face: Face | None, *, draw: random.Random) -> Cut:
    """How a picture is scaled and cut this time.

    Args:
        image: its size.
        placement: its bucket, and the crop that it would have without chance.
        spec: of its subset.
        face: where it has one.
        draw: decides.
    """
    wanted = placement.bucket
    if face is not None and image != wanted and min(image[0] / wanted[0], image[1] / wanted[1]) >= 1:
        return _around(image, wanted, face, spec, draw=draw)
    if not spec.random_crop:
        return Cut(placement.resized, placement.crop)
    whole = not spec.enable_bucket and all(side >= least for side, least in zip(image, wanted, strict=True))
    resized = image if whole else placement.resized
    left, top = (draw.randint(0, side - least) for side, least in zip(resized, wanted, strict=True))
    return Cut(resized, (left, top))


def _around(image: Size, wanted: Size, face: Face, spec: TrainSpec, *, draw: random.Random) -> Cut:
    """The face is as large as the range says, where the picture's size allows it, and in the middle."""
    size, face_size = min(wanted), max(face.width, face.height)
    low, high = spec.face_crop_aug_range
    cover = max(wanted[0] / image[0], wanted[1] / image[1])
    least = min(1.0, max(cover, size / (face_size * high)))
    most = min(1.0, max(least, size / (face_size * low)))
    scale = draw.uniform(least, most) if least < most else least
    resized = int(image[0] * scale + 0.5), int(image[1] * scale + 0.5)
    found = []
    for side, goal, centre in zip(resized, wanted, (face.x, face.y), strict=True):
        at = int(centre * scale + 0.5)
        start = at - goal // 2
        if spec.random_crop:  # two dice: nearer to the face more often
            reach = max(side - at, at)
            start += draw.randint(0, reach) + draw.randint(0, reach) - reach
        elif low != high and face_size > size // 10 and face_size >= FACE:
            start += draw.randint(-face_size // 20, face_size // 20)
        found.append(max(0, min(start, side - goal)))
    return Cut(resized, (found[0], found[1]))


def coloured(picture: Image.Image, draw: random.Random) -> Image.Image:
    """A picture in RGB, or the same with another hue or another brightness."""
    from PIL import Image

    if draw.random() > SHARE:
        return picture
    if draw.random() > 0.5:
        turn = round(draw.uniform(-HUE, HUE) * 256) % 256
        hue, saturation, value = picture.convert("HSV").split()
        turned = hue.point([(one + turn) % 256 for one in range(256)])
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    gamma = draw.uniform(1 - GAMMA, 1 + GAMMA)
    return picture.point([min(255, int(one**gamma)) for one in range(256)] * 3)
