"""Captions as they are drawn for one batch. Stateless: the same seed, epoch and place give the same text.

Order of operations: kohya-ss/sd-scripts ``library/train_util.py`` (process_caption).
"""

from __future__ import annotations

import math
import random
import re
from typing import Any

from gpurent_engine.spec import TrainSpec

_CHOICE = re.compile(r"\{([^{}]+)\}")
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Private letters that stand for doubled braces; no caption holds them."""


def draw(caption: str, spec: TrainSpec, epoch: int, place: int, *, step: int = 0, steps: int = 0) -> str:
    """One caption as the model sees it.

    Args:
        caption: as in the file; several lines only with ``enable_wildcard``.
        spec: of the picture's subset.
        epoch: counted from 0.
        place: of the picture within the epoch.
        step, steps: optimiser step and how many there are, for ``token_warmup_step``.
    """
    text = " ".join(part for part in (spec.caption_prefix, caption, spec.caption_suffix) if part)
    if not varies(spec):
        return _joined(text, spec)
    chooser = random.Random(f"{spec.seed}/{epoch}/{place}")
    every = spec.caption_dropout_every_n_epochs
    # kohya counts epochs from 1 here
    if chooser.random() < spec.caption_dropout_rate or (every and (epoch + 1) % every == 0):
        return ""
    if spec.enable_wildcard:
        text = wildcards(text, chooser)
    if spec.shuffle_caption or spec.token_warmup_step or spec.caption_tag_dropout_rate:
        text = _tags(text, spec, chooser, step, steps=steps)
    return _joined(text, spec)


def whole(caption: str, spec: TrainSpec) -> str:
    """A caption with nothing drawn: its first line, the first of alternatives, all tags in their order."""
    text = " ".join(part for part in (spec.caption_prefix, caption, spec.caption_suffix) if part)
    if spec.enable_wildcard:
        text = wildcards(text.partition("\n")[0], First())
    return _joined(text, spec)


class First(random.Random):
    """Always chooses the first."""

    def choice(self, seq: Any) -> Any:
        """The first."""
        return seq[0]


def varies(spec: TrainSpec) -> bool:
    """Whether a caption differs from one step to the next."""
    return bool(
        spec.caption_dropout_rate or spec.caption_dropout_every_n_epochs or spec.enable_wildcard or spec.shuffle_caption
        or spec.token_warmup_step or spec.caption_tag_dropout_rate
    )  # fmt: skip


def wildcards(text: str, chooser: random.Random) -> str:
    """One of several lines, and one of ``{a|b}``; doubled braces are braces."""
    line = chooser.choice(text.split("\n")) if "\n" in text else text
    line = line.replace("{{", _OPEN).replace("}}", _CLOSE)
    line = _CHOICE.sub(lambda found: chooser.choice(found[1].split("|")), line)
    return line.replace(_OPEN, "{").replace(_CLOSE, "}")


def _tags(text: str, spec: TrainSpec, chooser: random.Random, step: int, *, steps: int) -> str:
    fixed, flexible, tail = _parted(text, spec)
    warm = spec.token_warmup_step
    if 0 < warm < 1:
        warm = math.floor(warm * steps)
    if warm and step < warm:
        least = spec.token_warmup_min
        flexible = flexible[: math.floor(step * (len(flexible) - least) / warm) + least]
    if spec.shuffle_caption:
        chooser.shuffle(flexible)
    if spec.caption_tag_dropout_rate:
        flexible = [tag for tag in flexible if chooser.random() >= spec.caption_tag_dropout_rate]
    return ", ".join([*fixed, *flexible, *tail])


def _parted(text: str, spec: TrainSpec) -> tuple[list[str], list[str], list[str]]:
    """Tags that stay in front, tags that move, tags that stay at the end."""
    mark = spec.keep_tokens_separator
    if mark and mark in text:
        first, _, rest = text.partition(mark)
        middle, _, last = rest.partition(mark)
        fixed, flexible, tail = (split(part, spec.caption_separator) for part in (first, middle, last))
        return fixed, flexible, tail
    tags = split(text, spec.caption_separator)
    return tags[: spec.keep_tokens], tags[spec.keep_tokens :], []


def split(text: str, separator: str) -> list[str]:
    """Tags between separators, empty ones left out."""
    return [tag.strip() for tag in text.split(separator) if tag.strip()]


def _joined(text: str, spec: TrainSpec) -> str:
    return text.replace(spec.secondary_separator, spec.caption_separator) if spec.secondary_separator else text
