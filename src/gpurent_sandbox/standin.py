"""A stand-in for torch on the sandbox's machines, as far as a machine is examined with it. It trains nothing.

The machines have no GPU. What their GPUs would be is in ``etc/gpu.json`` below a machine's root, from which this file,
copied there as ``torch.py``, answers. The training engine gets the real torch, and trains on this computer's CPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_FILE = Path(os.environ.get("GPURENT_ROOT", "/"), "etc/gpu.json")
_GPU: dict[str, Any] = json.loads(_FILE.read_text()) if _FILE.is_file() else {}

__version__ = str(_GPU.get("torch", "2.8.0+cu128"))
float16, float32 = "float16", "float32"
version = SimpleNamespace(cuda=_GPU.get("built_for", "12.8"))


class Tensor:
    """A matrix of numbers."""

    def __init__(self, rows: Sequence[Sequence[float]], device: str) -> None:
        self._rows = rows
        self._device = device

    def __matmul__(self, other: Tensor) -> Tensor:
        if self._device != "cpu":
            _check_kernels()
        columns = list(zip(*other.tolist(), strict=True))
        made: list[list[float]] = [
            [sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in self._rows
        ]
        if self._device != "cpu" and _GPU.get("wrong"):
            made[-1][-1] += 1.0
        return Tensor(made, self._device)

    def tolist(self) -> list[list[float]]:
        """As lists of rows."""
        return [list(row) for row in self._rows]


def tensor(rows: Sequence[Sequence[float]], *, dtype: str = float32, device: str = "cpu") -> Tensor:  # noqa: ARG001
    """Make a matrix."""
    if device != "cpu" and not cuda.is_available():
        raise RuntimeError("No CUDA GPUs are available")
    return Tensor(rows, device)


def _check_kernels() -> None:
    major, minor = _GPU["capability"]
    if f"sm_{major}{minor}" not in cuda.get_arch_list():
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


class _Cuda:
    """``torch.cuda``."""

    def is_available(self) -> bool:
        return bool(_GPU) and not _GPU.get("old_driver")

    def device_count(self) -> int:
        return int(_GPU["count"]) if self.is_available() else 0

    def get_device_name(self, _index: int = 0) -> str:
        return str(_GPU["name"])

    def get_device_capability(self, _index: int = 0) -> tuple[int, int]:
        major, minor = _GPU["capability"]
        return int(major), int(minor)

    def get_arch_list(self) -> list[str]:
        return ["sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]

    def mem_get_info(self, _index: int = 0) -> tuple[int, int]:
        return int(_GPU["free_mb"]) * 2**20, int(_GPU["vram_mb"]) * 2**20

    def synchronize(self) -> None:
        """Nothing runs in the background."""


cuda = _Cuda()
