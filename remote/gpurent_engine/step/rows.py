"""Matrices with spare columns at their end.

A LoRA layer computes ``x Wᵀ + d Bᵀ`` with ``d = x Aᵀ``. If ``d`` stands right behind ``x`` in memory, both products are
one: ``[x d] [W B]ᵀ``. So whatever produces the input of such a layer leaves room for ``d`` behind each row. The same
holds for gradients: ``dx = [dy dd] [W; A]``.
"""

from __future__ import annotations

import torch


def with_room(shape: tuple[int, ...], room: int, like: torch.Tensor) -> torch.Tensor:
    """An uninitialised tensor ``[…, columns]`` whose rows are followed by ``room`` spare columns in memory."""
    if not room:
        return like.new_empty(shape)
    *outer, columns = shape
    return like.new_empty((*outer, columns + room))[..., :columns]


def widened(x: torch.Tensor, room: int) -> torch.Tensor | None:
    """``[rows, columns + room]`` over the memory of ``x`` ``[rows, columns]``, or None if ``x`` has no such room.

    Only a tensor made by ``with_room`` passes: it starts its storage, and the storage has exactly that size. A slice
    of a wider matrix does not, because what follows its rows belongs to somebody else.

    Writing into the room leaves ``x`` as it is. So the result counts its changes apart from ``x`` (``.data``): to
    autograd, a write through any other view would be a change of ``x``, and checkpointing, which keeps ``x`` to
    compute from it a second time, would refuse it.
    """
    rows, columns = x.shape
    wide = columns + room
    if (
        not room
        or x.storage_offset() != 0
        or x.stride() != (wide, 1)
        or x.untyped_storage().nbytes() != rows * wide * x.element_size()
    ):
        return None
    return x.data.as_strided((rows, wide), (wide, 1))


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """``[rows, columns]`` of any ``[…, columns]``; a view where the strides allow it, spare columns kept."""
    return x.reshape(-1, x.shape[-1])
