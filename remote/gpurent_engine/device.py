"""Which device and number format to use, and why; and what memory was used."""

from __future__ import annotations

import os
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


def deterministic() -> None:
    """The same numbers in every run on the same machine, bit for bit, and slower. To be called before anything is
    computed: cuBLAS reads its variable once.

    Left alone, cuDNN chooses between algorithms by the clock, and the backward passes of attention add in the order in
    which blocks happen to end.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # no reader of such memory
    torch.backends.cudnn.benchmark = False


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor from the CPU on its way to ``device``. A copy from pageable memory would wait until the GPU has done all
    that was queued; from pinned memory it is queued like everything else."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what ``error`` says: torch's own class, a library's words on a GPU, or torch's on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | ImportError) and any(words in str(error) for words in _NO_MEMORY)


_NO_MEMORY = (
    "CUDA error: out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "failed to map segment", "Cannot allocate memory",
)  # fmt: skip
"""The last two are what a library that is imported late says."""


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that neither this process nor another one has taken."""
    return int(torch.cuda.mem_get_info(device)[0])


def peak_memory_mb(device: torch.device) -> float:
    """Highest memory so far in MiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
