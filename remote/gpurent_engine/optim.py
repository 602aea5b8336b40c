"""The optimiser and what its name in the metadata is."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from gpurent_engine.spec import TrainSpec


def make(
    spec: TrainSpec, groups: list[tuple[list[torch.nn.Parameter], float]], device: torch.device
) -> tuple[Any, str]:
    """Build the optimiser over ``(parameters, learning rate)`` groups.

    Returns:
        The optimiser, and a note for the user when it is not the one that was asked for, else "".
    """
    settings = [{"params": parameters, "lr": rate} for parameters, rate in groups]
    if spec.optimizer_type == "AdamW8bit":
        if device.type == "cuda":
            try:
                bitsandbytes: Any = importlib.import_module("bitsandbytes.optim")
            except ImportError:
                note = "bitsandbytes is not installed on this host; AdamW in float32 is used instead of AdamW8bit."
            else:
                return bitsandbytes.AdamW8bit(settings, weight_decay=spec.weight_decay), ""
        else:
            note = "AdamW8bit needs a CUDA GPU; AdamW in float32 is used instead."
        return torch.optim.AdamW(settings, weight_decay=spec.weight_decay), note
    return torch.optim.AdamW(settings, weight_decay=spec.weight_decay), ""


def described(optimizer: Any, spec: TrainSpec) -> str:
    """``module.Class(arguments)``, as kohya's metadata has it."""
    kind = type(optimizer)
    return f"{kind.__module__}.{kind.__qualname__}(weight_decay={spec.weight_decay})"
