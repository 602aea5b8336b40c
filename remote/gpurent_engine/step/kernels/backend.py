"""Whether Triton runs here, and the switch that turns our kernels off.

Triton compiles a kernel when it is first called, and needs a C compiler for the launcher around it. PyTorch's
``-runtime`` images have none; there the plain torch formulas run instead, which every kernel has beside it.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


triton, tl = _module("triton"), _module("triton.language")
INSTALLED = tl is not None

INTERPRETED = INSTALLED and os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run line by line in Python, on CPU tensors: slow, and exact enough for tests."""

_enabled = True


def active(x: torch.Tensor) -> bool:
    """Whether a kernel, and not its plain twin, handles ``x``."""
    return _enabled and INSTALLED and (x.is_cuda or INTERPRETED)


@contextmanager
def kernels(enabled: bool) -> Iterator[None]:
    """Turn all kernels on or off within the block."""
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


def missing() -> str:
    """Why kernels cannot run on this machine's GPU, or "" if they can."""
    if not INSTALLED:
        return "Triton is not installed"
    if INTERPRETED:
        return ""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        return "Triton needs a C compiler and this image has none"
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")  # noqa: PTH118
    if not os.path.exists(header):  # noqa: PTH110
        return f"Triton needs Python's header files and {header} is missing"
    return ""


def blocks(length: int, size: int) -> int:
    """How many blocks of ``size`` cover ``length``."""
    return -(-length // size)


def power_of_two(least: int) -> int:
    """The smallest power of two that is not below ``least``; Triton's ranges must have such lengths."""
    return 1 << (least - 1).bit_length()
