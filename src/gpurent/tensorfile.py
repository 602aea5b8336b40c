"""The header of a safetensors file: 8 bytes of little-endian length, then JSON that places every tensor.

Source: the format's own description, https://github.com/huggingface/safetensors#format. Nothing is executed or loaded.
The format allows a header of 100 MB, which takes over a gigabyte to parse; real ones have a few hundred KB.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from gpurent.localfiles import open_regular
from gpurent.untrusted.data import Malformed, parse

HEADER_LIMIT = 16 * 1024 * 1024
"""No larger header is read: 10,000 tensors take 2 MB, and the metadata of a LoRA repeats its captions' words."""
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "F4": 4, "C64": 64,
}  # fmt: skip


def tensor_names(path: Path, *, most: int = HEADER_LIMIT) -> list[str]:
    """Names in the header; arguments and errors are those of ``tensor_shapes``."""
    return list(tensor_shapes(path, most=most))


def tensor_shapes(path: Path, *, most: int = HEADER_LIMIT) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the header of a file that is exactly as long as its header says.

    Args:
        path: a regular file.
        most: bytes of the largest header that is read.

    Raises:
        ValueError: it is not such a file, is cut short or longer, or its header is larger.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path.name} has no safetensors header")
        if length > most:
            raise ValueError(f"{path.name} has a safetensors header of {length} bytes; at most {most} are read")
        text = file.read(length)
    try:
        header = parse(text, most=most, depth=4)
        if not isinstance(header, dict):
            raise Malformed("no object")
        end = _tiled({name: one for name, one in header.items() if name != "__metadata__"})
    except Malformed as error:
        raise ValueError(f"{path.name} has no safetensors header: {error}") from error
    if size != 8 + length + end:
        raise ValueError(f"{path.name} has {size} bytes, its safetensors header describes {8 + length + end}")
    return {name: tuple(one["shape"]) for name, one in header.items() if name != "__metadata__"}


def _tiled(tensors: Mapping[str, object]) -> int:
    """Bytes of all tensors together, which follow each other without gaps."""
    spans = sorted(_span(one) for one in tensors.values())
    at = 0
    for begin, end in spans:
        if begin != at:
            raise Malformed("tensors that overlap or leave gaps")
        at = end
    return at


def _span(tensor: object) -> tuple[int, int]:
    given = tensor if isinstance(tensor, dict) else {}
    offsets, shape, bits = given.get("data_offsets"), given.get("shape"), BITS.get(str(given.get("dtype")))
    if bits is None or not _sizes(offsets) or not _sizes(shape) or len(offsets) != 2:
        raise Malformed("a tensor without type, shape or place")
    begin, end = offsets
    if math.prod(shape) * bits != (end - begin) * 8:
        raise Malformed("a tensor whose place does not fit its shape")
    return begin, end


def _sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) <= 16 and all(type(one) is int and one >= 0 for one in value)
