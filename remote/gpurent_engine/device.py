"""Which device and number format to use, and why; and what memory was used."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Choice:
    """Device and mixed precision for a run; ``note`` is non-empty when they differ from what was asked."""

    device: torch.device
    name: str
    mixed_precision: str
    note: str = ""

    @property
    def base_dtype(self) -> torch.dtype:
        """Number format in which the frozen base is kept."""
        return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.mixed_precision, torch.float32)


def choose(wanted: str) -> Choice:
    """Pick CUDA if there is one. ``wanted`` is kohya's ``mixed_precision``: ``no``, ``fp16`` or ``bf16``."""
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        name = torch.cuda.get_device_name(device)
        if wanted == "bf16" and not torch.cuda.is_bf16_supported():
            return Choice(device, name, "fp16", f"{name} has no bf16; training in fp16.")
        return Choice(device, name, wanted)
    if wanted == "fp16":
        return Choice(
            torch.device("cpu"), "CPU", "no", "There is no GPU here and a CPU has no fp16; training in float32."
        )
    return Choice(torch.device("cpu"), "CPU", wanted)


def peak_memory_mb(device: torch.device) -> float:
    """Highest memory so far in MiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
