"""The header of a safetensors file: 8 bytes of little-endian length, then JSON that places every tensor.

Source: the format's own description, https://github.com/huggingface/safetensors#format. Nothing is executed or loaded.
"""

from __future__ import annotations

import json
from pathlib import Path

HEADER_LIMIT = 100 * 1024 * 1024
"""No larger header is read; the format's own library has the same limit."""


def tensor_names(path: Path) -> list[str]:
    """Names in the header of a file that is at least as long as its header says.

    Raises:
        ValueError: it is no such file, or is cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= min(HEADER_LIMIT, size) else b""
    try:
        header = json.loads(text)
        tensors = {name: one for name, one in header.items() if name != "__metadata__"}
        spans = [tuple(map(int, one["data_offsets"])) for one in tensors.values()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} has no safetensors header") from error
    if any(len(span) != 2 or not 0 <= span[0] <= span[1] for span in spans):
        raise ValueError(f"{path.name} has a safetensors header that places tensors nowhere")
    if size < 8 + length + max((end for _, end in spans), default=0):
        raise ValueError(f"{path.name} is shorter than its safetensors header says")
    return list(tensors)
