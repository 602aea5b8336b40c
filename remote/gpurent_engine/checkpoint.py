"""Files that are whole or absent, and what kohya's trainer calls its checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpurent_engine.filenames import epoch_name as epoch_name
from gpurent_engine.filenames import step_name as step_name

_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A complete file: its name below the output folder, digest and size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Position:
    """Where a run stands: optimiser steps done, epochs finished, batches done in the epoch under way."""

    step: int
    epoch: int
    batch: int


def write(folder: Path, name: str, pieces: Iterable[bytes | memoryview]) -> Written:
    """Write ``folder/name`` so that it is complete on disk before it bears its name.

    Raises:
        OSError: the disk is full or refuses; what stood under that name is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / name, folder / f"{name}.part"
    digest, size = hashlib.sha256(), 0
    try:
        with part.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return Written(name, digest.hexdigest(), size)


def safetensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Iterable[bytes | memoryview]:
    """A safetensors file in pieces: header, then each tensor, without a second copy of them in memory.

    Tensors are on the CPU and contiguous. Format: https://github.com/huggingface/safetensors#format. Written here and
    not by the library's ``save`` because a state is gigabytes, and a copy of it stops the training for seconds.
    """
    at, header = 0, dict[str, Any]()
    if metadata:
        header["__metadata__"] = dict(metadata)
    # the library sorts by size of a number, then by name, so that every tensor is aligned to its own numbers
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        one = tensors[name]
        end = at + one.numel() * one.element_size()
        header[name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        if tensors[name].numel():
            numbers: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
            yield memoryview(numbers)
