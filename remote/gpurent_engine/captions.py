"""Captions as they are drawn for one batch. Stateless: the same seed, epoch and place give the same text."""

from __future__ import annotations

import random

from gpurent_engine.spec import TrainSpec


def draw(caption: str, spec: TrainSpec, epoch: int, place: int) -> str:
    """Apply prefix, suffix, dropout and shuffling in kohya's order; ``place`` counts pictures within the epoch."""
    text = " ".join(part for part in (spec.caption_prefix, caption, spec.caption_suffix) if part)
    if not (spec.caption_dropout_rate or spec.shuffle_caption):
        return text
    chooser = random.Random(f"{spec.seed}/{epoch}/{place}")
    if chooser.random() < spec.caption_dropout_rate:
        return ""
    if not spec.shuffle_caption:
        return text
    tags = [tag.strip() for tag in text.split(",") if tag.strip()]
    kept, rest = tags[: spec.keep_tokens], tags[spec.keep_tokens :]
    chooser.shuffle(rest)
    return ", ".join([*kept, *rest])
