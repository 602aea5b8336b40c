"""What the course of a training says, in words, with advice. Pure; torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RISES = 0.02
"""By how much of the lowest loss held-out pictures must be worse to call it rising, in two looks in a row."""
FALLS = 0.005
"""By how much of the first loss they must be better to call it learning."""
FLAT_AFTER = 4
"""Looks, the one before the first step included, after which nothing learnt is worth a word."""
SAME = 1e-6
"""Relative difference of a loss below which the LoRA has no effect on what the base predicts."""


@dataclass(frozen=True)
class Look:
    """Loss of held-out pictures after ``step`` optimiser steps; NaN where it was not a number."""

    step: int
    epoch: int
    loss: float


@dataclass(frozen=True)
class Verdict:
    """A word on the training: ``flat``, ``rising``, ``nan`` or ``no_effect``."""

    kind: str
    message: str
    advice: str


NAN = Verdict(
    "nan",
    "A loss is not a number.",
    'Lower the learning rate; with fp16, try mixed_precision = "bf16". After three in a row the training ends.',
)
NO_EFFECT = Verdict(
    "no_effect",
    "The LoRA does not change what the base predicts.",
    "Raise the learning rate (1e-4 is usual), check that network_alpha is not far below network_dim, and in half "
    "precision wait for a later word: small changes round away at first.",
)


def best(looks: Sequence[Look]) -> Look | None:
    """The look with the lowest loss after a step; the first of several."""
    found = [one for one in looks if one.step and math.isfinite(one.loss)]
    return min(found, key=lambda one: one.loss, default=None)


def judged(looks: Sequence[Look]) -> Verdict | None:
    """What the looks so far come to, the last one in mind."""
    if looks and not math.isfinite(looks[-1].loss):
        return NAN
    lowest = best(looks)
    if lowest is None:
        return None
    recent = looks[-2:]
    if len(looks) > 2 and all(one.step > lowest.step and one.loss > lowest.loss * (1 + RISES) for one in recent):
        return Verdict(
            "rising",
            f"The loss of held-out pictures rises: {recent[-1].loss:.4f}, after {lowest.loss:.4f} at step "
            f"{lowest.step}. From there on the training learns its pictures by heart.",
            f"Use the file of step {lowest.step}, which is kept as the best. Fewer epochs, a lower rate, more pictures "
            "or early_stopping_patience avoid it.",
        )
    if len(looks) >= FLAT_AFTER and looks[0].step == 0 and lowest.loss > looks[0].loss * (1 - FALLS):
        return Verdict(
            "flat",
            f"The loss of held-out pictures stays where it was: {looks[0].loss:.4f} before the first step, "
            f"{lowest.loss:.4f} at best.",
            "Raise the learning rate, or check that captions say what the pictures show.",
        )
    return None


def without_effect(before: float, now: float) -> bool:
    """Whether the same question has the same loss as before the first step."""
    return math.isfinite(now) and abs(now - before) <= SAME * abs(before)


def enough(looks: Sequence[Look], patience: int | None, threshold: float) -> bool:
    """Whether to stop early: no look of the last ``patience`` was better by ``threshold`` (a share) than before them.

    As with Prechelt 1998, "Early Stopping – But When?", the lowest loss so far is what counts.
    """
    if not patience:
        return False
    lowest, waited = math.inf, 0
    for one in looks:
        if one.step == 0:
            lowest = one.loss if math.isfinite(one.loss) else math.inf
        elif one.loss < lowest * (1 - threshold) or (math.isinf(lowest) and math.isfinite(one.loss)):
            lowest, waited = one.loss, 0
        else:
            waited += 1
    return waited >= patience
