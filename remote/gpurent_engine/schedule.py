"""Learning-rate curves as factors of the base rate, equal to diffusers' ``get_scheduler``. Pure; torch-free."""

from __future__ import annotations

import math
from typing import Any

from gpurent_engine import limits
from gpurent_engine.spec import TrainSpec

_POLYNOMIAL_END = 1e-7


def warmup_steps(value: float, total: int) -> int:
    """kohya's reading: a whole number is steps, a float is a fraction of ``total``."""
    return value if isinstance(value, int) else int(value * total)


def of(spec: TrainSpec, step: int, total: int, base: float) -> float:
    """Factor of the rate ``base`` at ``step`` (0-based) of ``total``, as the configuration wants it."""
    rules = str(limits.literals("lr_scheduler_args", spec.lr_scheduler_args).get("step_rules", ""))
    return factor(
        spec.lr_scheduler.partition(":")[0], step, warmup=warmup_steps(spec.lr_warmup_steps, total), total=total,
        cycles=spec.lr_scheduler_num_cycles, power=spec.lr_scheduler_power, base=base,
        decay=warmup_steps(spec.lr_decay_steps, total), least=spec.lr_scheduler_min_lr_ratio or 0.0,
        timescale=spec.lr_scheduler_timescale, rules=rules,
    )  # fmt: skip


def torch_factors(spec: TrainSpec, total: int) -> list[float]:
    """Factors at every step, by the class of ``torch.optim.lr_scheduler`` that ``lr_scheduler_type`` names.

    Raises:
        SpecError: the class does not take ``lr_scheduler_args``.
    """
    import torch

    from gpurent_engine.spec import SpecError

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    arguments: dict[str, Any] = limits.literals("lr_scheduler_args", spec.lr_scheduler_args)
    if spec.lr_scheduler_type == "CyclicLR":
        arguments.setdefault("cycle_momentum", False)
    try:
        curve = getattr(torch.optim.lr_scheduler, spec.lr_scheduler_type)(optimizer, **arguments)
        found = []
        for _ in range(total):
            found.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            curve.step()
    except (TypeError, ValueError) as error:
        raise SpecError("lr_scheduler_args", f"{spec.lr_scheduler_type} refuses them: {error}.") from error
    return found


def factor(
    name: str, step: int, *, warmup: int, total: int, cycles: int = 1, power: float = 1.0, base: float = 1.0,
    decay: int = 0, least: float = 0.0, timescale: int | None = None, rules: str = "",
) -> float:  # fmt: skip
    """Factor of the learning rate at optimiser step ``step`` (0-based).

    Args:
        name: a choice of ``lr_scheduler``.
        warmup, total: in optimiser steps.
        cycles: hard restarts, for ``cosine_with_restarts``.
        power, base: for ``polynomial``: exponent, and the base rate, whose end is 1e-7.
        decay, least: for ``warmup_stable_decay`` and ``cosine_with_min_lr``: steps at the end, and the last factor.
        timescale: for ``inverse_sqrt``; None is the warm-up, or 10,000.
        rules: for ``piecewise_constant``: ``1:10,0.1:20,0.01`` is 1 up to step 10, 0.1 up to 20, then 0.01.
    """
    if name in ("constant", "adafactor"):
        return 1.0
    if name == "piecewise_constant":
        return _piece(rules, step)
    if step < warmup:
        rising = step / max(1, warmup)
        return rising * (1 - least) + least if name == "warmup_stable_decay" else rising
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
    if name == "inverse_sqrt":
        scale = timescale or warmup or 10_000
        return 1.0 / math.sqrt((step + scale - warmup) / scale)
    if name == "cosine_with_min_lr":
        # kohya's trainer passes half of lr_scheduler_num_cycles, so that 1 is half a wave
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * cycles * part)) * (1 - least) + least)
    if name == "warmup_stable_decay":
        into = step - (total - decay)
        if into < 0:
            return 1.0
        if into >= decay:
            return least
        falling = max(0.0, 0.5 * (1.0 + math.cos(math.pi * cycles * into / max(1, decay))))
        return falling * (1 - least) + least
    raise ValueError(f"no learning-rate curve is called {name!r}")


def _piece(rules: str, step: int) -> float:
    """Rules as diffusers' ``get_piecewise_constant_schedule`` reads them."""
    *parts, last = rules.split(",")
    bounds = sorted((int(at), float(value)) for value, _, at in (part.partition(":") for part in parts))
    return next((value for at, value in bounds if step < at), float(last))
