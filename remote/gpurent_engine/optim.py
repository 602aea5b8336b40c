"""The optimiser and what its name in the metadata is."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from gpurent_engine.spec import TrainSpec


class UnknownOptimizer(ValueError):
    """No optimiser bears that name; training with another would not be what was asked for."""


def make(
    spec: TrainSpec, groups: list[tuple[list[torch.nn.Parameter], float]], device: torch.device
) -> tuple[Any, str]:
    """Build the optimiser over ``(parameters, learning rate)`` groups.

    Returns:
        The optimiser, and a note for the user when it is not the one that was asked for, else "".

    Raises:
        UnknownOptimizer: ``optimizer_type`` is not one that this engine knows.
    """
    settings = [{"params": parameters, "lr": rate} for parameters, rate in groups]
    kind = spec.optimizer_type
    if kind == "AdamW":
        return torch.optim.AdamW(settings, weight_decay=spec.weight_decay), ""
    if kind == "AdamW8bit":
        if device.type != "cuda":
            note = "AdamW8bit needs a CUDA GPU; AdamW in float32 is used instead."
            return torch.optim.AdamW(settings, weight_decay=spec.weight_decay), note
        try:
            bitsandbytes: Any = importlib.import_module("bitsandbytes.optim")
        except ImportError:
            note = "bitsandbytes is not installed on this host; AdamW in float32 is used instead of AdamW8bit."
            return torch.optim.AdamW(settings, weight_decay=spec.weight_decay), note
        return bitsandbytes.AdamW8bit(settings, weight_decay=spec.weight_decay), ""
    raise UnknownOptimizer(f"no optimizer is called {kind!r}")


def described(optimizer: Any, spec: TrainSpec) -> str:
    """``module.Class(arguments)``, as kohya's metadata has it."""
    kind = type(optimizer)
    return f"{kind.__module__}.{kind.__qualname__}(weight_decay={spec.weight_decay})"
