"""What an adapter adds to a weight: LoRA, LoHa, LoKr, and the lengths of DoRA, as functions of a layer's tensors.

Sources: see ``networks.weights``. Tensors are named by their suffixes in the file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def factors(dimension: int, wanted: int = -1) -> tuple[int, int]:
    """Two factors of ``dimension``, the smaller first: nearest to each other, or the first one ``wanted`` at most.

    LyCORIS' ``factorization``: ``wanted`` itself where it divides; else the largest pair whose smaller factor does not
    exceed it, -1 for no limit.
    """
    if wanted > 0 and dimension % wanted == 0:
        return min(wanted, dimension // wanted), max(wanted, dimension // wanted)
    limit = dimension if wanted < 0 else wanted
    smaller, larger = 1, dimension
    length = smaller + larger
    while smaller < larger:
        fresh = smaller + 1
        while dimension % fresh:
            fresh += 1
        other = dimension // fresh
        if fresh + other > length or fresh > limit:
            break
        smaller, larger = fresh, other
        length = smaller + larger
    return min(smaller, larger), max(smaller, larger)


def lengths(weight: Tensor, *, on_output: bool) -> Tensor:
    """Norm of the weights of each output (or input), in a shape that multiplies the weight."""
    dims = [dim for dim in range(weight.dim()) if dim != (0 if on_output else 1)]
    found: Tensor = torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
    return found


def change(tensors: Mapping[str, Tensor], shape: torch.Size, scale: float) -> Tensor:
    """What is added to the weight, in its shape."""
    if "hada_w1_a" in tensors:
        left = tensors["hada_w1_a"] @ tensors["hada_w1_b"]
        return (left * (tensors["hada_w2_a"] @ tensors["hada_w2_b"])).reshape(shape) * scale
    if "lokr_w1" in tensors or "lokr_w1_a" in tensors:
        return _kron(tensors, shape, scale)
    up, down = tensors["lora_up.weight"].flatten(1), tensors["lora_down.weight"].flatten(1)
    return (up @ down).reshape(shape) * scale


def _kron(tensors: Mapping[str, Tensor], shape: torch.Size, scale: float) -> Tensor:
    small = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if "lokr_w2" in tensors:
        large = tensors["lokr_w2"]
        scale = 1.0 if "lokr_w1" in tensors else scale
    else:
        large = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]
        large = large.reshape(large.shape[0], shape[1] // small.shape[1], *shape[2:])
    small = small.reshape(*small.shape, *(1,) * (large.dim() - 2))
    return torch.kron(small, large.contiguous()).reshape(shape) * scale
