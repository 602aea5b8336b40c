"""Learning-rate curves as factors of the base rate, equal to diffusers' ``get_scheduler``. Pure; torch-free."""

from __future__ import annotations

import math

_POLYNOMIAL_END = 1e-7


def warmup_steps(value: float, total: int) -> int:
    """kohya's reading: a whole number is steps, a float is a fraction of ``total``."""
    return value if isinstance(value, int) else int(value * total)


def factor(
    name: str, step: int, *, warmup: int, total: int, cycles: int = 1, power: float = 1.0, base: float = 1.0
) -> float:
    """Factor of the learning rate at optimiser step ``step`` (0-based).

    Args:
        name: a choice of ``lr_scheduler``.
        warmup, total: in optimiser steps.
        cycles: hard restarts, for ``cosine_with_restarts``.
        power, base: for ``polynomial``: exponent, and the base rate, whose end is 1e-7.
    """
    if name == "constant":
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if name == "constant_with_warmup":
        return 1.0
    part = (step - warmup) / max(1, total - warmup)
    if name == "linear":
        return max(0.0, 1.0 - part)
    if name == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * part)))
    if name == "cosine_with_restarts":
        return 0.0 if part >= 1.0 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((cycles * part) % 1.0))))
    if name == "polynomial":
        end = _POLYNOMIAL_END / base
        return end if part >= 1.0 else (1.0 - end) * (1.0 - part) ** power + end
    raise ValueError(f"no learning-rate curve is called {name!r}")
