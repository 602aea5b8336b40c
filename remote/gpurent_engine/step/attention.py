"""Attention over merged projections.

Query, key and value leave one matrix product side by side and are read as strided views. On the way back their
gradients are packed side by side again, with room for the adapter's product (``rows.py``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from gpurent_engine.step.kernels.pointwise import pack


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: int, heads: int, back_room: int) -> Any:
        b, t, columns = x.shape
        ctx.settings = (x.shape, back_room)
        return x.view(b, t, parts, heads, columns // (parts * heads)).transpose(1, 3).unbind(2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        shape, back_room = ctx.settings
        return pack(gradients, back_room).view(shape), None, None, None


def split(x: torch.Tensor, parts: int, heads: int, *, back_room: int = 0) -> tuple[torch.Tensor, ...]:
    """``[b, t, parts · heads · head]`` as ``parts`` tensors ``[b, heads, t, head]``, views of ``x``.

    ``back_room``: spare columns behind each row of the gradient of ``x``.
    """
    views: tuple[torch.Tensor, ...] = _Split.apply(x, parts, heads, back_room)
    return views


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False) -> torch.Tensor:
    """Softmax attention, ``[b, heads, t, head]`` each, to ``[b, t, heads · head]``."""
    o = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return o.transpose(1, 2).flatten(2)
