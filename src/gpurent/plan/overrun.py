"""Will what is left of a training fit into what is left of the budget? Pure."""

from __future__ import annotations

from dataclasses import dataclass

SETTLED_STEPS = 10
SETTLED_S = 15.0
"""The first steps are slow: a GPU is tuned, memory is reserved. Speed is believed after this many steps and seconds."""
SPARE_PERCENT = 3
"""Of the time left, for saving and for a host that slows down."""
SPARE_S = 3.0
"""At least: an order has to reach the engine first, and the last seconds are too few to order again."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """A training that will not fit, and what would."""

    late_s: float
    """Seconds by which it would miss the soft deadline."""
    steps: int
    """Steps of the shortened training: whole epochs where at least one fits."""
    epochs: int
    total: int
    """Steps that were planned."""


def overrun(
    *, step: int, total: int, epochs: int, it_s: float, elapsed_s: float, now: float, soft: float
) -> Overrun | None:
    """Forecast from measured speed; None when the rest fits, or nothing can be said yet.

    Args:
        step, total, epochs: done, planned, planned.
        it_s: measured optimiser steps per second.
        elapsed_s: of training so far.
        now, soft: Unix seconds; at ``soft`` training has to end.
    """
    if step < SETTLED_STEPS or elapsed_s < SETTLED_S or it_s <= 0 or total <= step:
        return None
    late_s = now + (total - step) / it_s - soft
    if late_s <= 0:
        return None
    left = soft - now
    within = step + int(it_s * max(0.0, min(left - SPARE_S, left * (100 - SPARE_PERCENT) / 100)))
    per_epoch = -(-total // max(1, epochs))
    fitting = min(within, total - 1)
    whole = fitting // per_epoch * per_epoch
    steps = whole if whole > step else fitting
    return Overrun(late_s, max(step, steps), -(-max(step, steps) // per_epoch), total)
