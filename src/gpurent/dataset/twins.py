"""Pictures that are the same to the eye: copies, and copies that were scaled or saved again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

EDGE = 16
"""Pixels along each side of the small picture that is compared."""
MEAN, MOST = 2.5, 40
"""Levels of 255 by which the values of two such pictures may differ on average and at most. Saving as JPEG of quality
30 or halving the size changes them by less than 1.5 on average; two frames of a burst differ by more than 5."""
SHAPE = 0.02
"""By which their aspect ratios may differ."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture looks like from afar."""

    ratio: float
    """Width ÷ height."""
    mean: float
    values: bytes
    """RGB of ``EDGE`` × ``EDGE`` pixels."""


def look(picture: Image.Image) -> Look:
    """Of an RGB picture."""
    from PIL import Image as Images

    values = picture.resize((EDGE, EDGE), Images.Resampling.BOX).tobytes()
    return Look(picture.width / picture.height, sum(values) / len(values), values)


def alike(first: Look, second: Look) -> bool:
    """Whether two pictures are one to the eye."""
    if abs(first.ratio / second.ratio - 1) > SHAPE:
        return False
    allowed = MEAN * len(first.values)
    for value, other in zip(first.values, second.values, strict=True):
        difference = abs(value - other)
        allowed -= difference
        if allowed < 0 or difference > MOST:
            return False
    return True


def pairs(looks: Sequence[Look]) -> Iterator[tuple[int, int]]:
    """Positions of pictures that look like an earlier one, each once, with that one before it."""
    order = sorted(range(len(looks)), key=lambda index: looks[index].mean)
    first: dict[int, int] = {}
    for place, index in enumerate(order):
        for other in order[place + 1 :]:
            if looks[other].mean - looks[index].mean > MEAN:  # the means differ by no more than the values do
                break
            if alike(looks[index], looks[other]):
                early, late = sorted((first.get(index, index), first.get(other, other)))
                if early != late:
                    first[late] = early
    yield from sorted((early, late) for late, early in first.items())
