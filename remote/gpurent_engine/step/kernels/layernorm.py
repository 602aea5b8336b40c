"""Residual addition and LayerNorm (Ba et al. 2016) in one pass, for a frozen base.

Forward: ``s = x + y`` and ``n = norm(s)``. Both results go on: ``s`` along the residual path, ``n`` into the next
layer. Backward: both gradients come back here and leave as one, which is the gradient of ``x`` and of ``y``.
"""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from gpurent_engine.step.kernels.backend import INSTALLED, active, power_of_two, tl, triton
from gpurent_engine.step.rows import as_rows, with_room

if INSTALLED:

    @triton.jit
    def _forward(
        x,
        y,
        weight,
        bias,
        s,
        n,
        mean,
        rstd,
        C,
        X_STRIDE,
        Y_STRIDE,
        N_STRIDE,
        eps,
        ADD: tl.constexpr,
        BC: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        c = tl.arange(0, BC)
        known = c < C
        v = tl.load(x + row * X_STRIDE + c, mask=known, other=0.0).to(tl.float32)
        if ADD:
            v += tl.load(y + row * Y_STRIDE + c, mask=known, other=0.0).to(tl.float32)
            rounded = v.to(s.dtype.element_ty)
            tl.store(s + row * C + c, rounded, mask=known)
            v = rounded.to(tl.float32)
        mu = tl.sum(v, 0) / C
        centred = tl.where(known, v - mu, 0.0)
        rs = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / C + eps)
        tl.store(mean + row, mu)
        tl.store(rstd + row, rs)
        w = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
        b = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
        tl.store(n + row * N_STRIDE + c, (centred * rs * w + b).to(n.dtype.element_ty), mask=known)

    @triton.jit
    def _backward(
        s,
        ds,
        dn,
        weight,
        mean,
        rstd,
        d,
        C,
        S_STRIDE,
        DS_STRIDE,
        DN_STRIDE,
        D_STRIDE,
        RESIDUAL: tl.constexpr,
        BC: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        c = tl.arange(0, BC)
        known = c < C
        v = tl.load(s + row * S_STRIDE + c, mask=known, other=0.0).to(tl.float32)
        g = tl.load(dn + row * DN_STRIDE + c, mask=known, other=0.0).to(tl.float32)
        g *= tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
        rs = tl.load(rstd + row)
        normed = tl.where(known, (v - tl.load(mean + row)) * rs, 0.0)
        dv = rs * (g - tl.sum(g, 0) / C - normed * (tl.sum(g * normed, 0) / C))
        if RESIDUAL:
            dv += tl.load(ds + row * DS_STRIDE + c, mask=known, other=0.0).to(tl.float32)
        tl.store(d + row * D_STRIDE + c, dv.to(d.dtype.element_ty), mask=known)


def _warps(columns: int) -> int:
    return 4 if columns <= 2048 else 8


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, y: torch.Tensor | None, norm: torch.nn.LayerNorm, room: int, back_room: int
    ) -> Any:
        ctx.set_materialize_grads(False)
        x2 = as_rows(x)
        y2 = x2 if y is None else as_rows(y)
        rows, columns = x2.shape
        s = x2 if y is None else x2.new_empty(rows, columns)
        n = with_room((rows, columns), room, x2)
        moments = torch.empty(2, rows, dtype=torch.float32, device=x.device)
        block = power_of_two(columns)
        _forward[rows,](
            x2,
            y2,
            norm.weight,
            norm.bias,
            s,
            n,
            moments[0],
            moments[1],
            columns,
            x2.stride(0),
            y2.stride(0),
            n.stride(0),
            norm.eps,
            ADD=y is not None,
            BC=block,
            num_warps=_warps(block),
        )
        ctx.save_for_backward(s, norm.weight, moments)
        ctx.settings = (x.shape, back_room, y is not None)
        return s.view(x.shape), n.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        ds, dn = gradients
        s, weight, moments = ctx.saved_tensors
        shape, back_room, added = ctx.settings
        if dn is None:
            return ds, ds if added else None, None, None, None
        dn2 = as_rows(dn)
        ds2 = dn2 if ds is None else as_rows(ds)
        rows, columns = dn2.shape
        d = with_room((rows, columns), back_room, dn2)
        block = power_of_two(columns)
        _backward[rows,](
            s,
            ds2,
            dn2,
            weight,
            moments[0],
            moments[1],
            d,
            columns,
            s.stride(0),
            ds2.stride(0),
            dn2.stride(0),
            d.stride(0),
            RESIDUAL=ds is not None,
            BC=block,
            num_warps=_warps(block),
        )
        d = d.view(shape)
        return d, d if added else None, None, None, None


def add_norm(
    x: torch.Tensor, y: torch.Tensor | None, norm: torch.nn.LayerNorm, *, room: int = 0, back_room: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(x + y, norm(x + y))`` for ``[…, c]``; without ``y``, ``(x, norm(x))``.

    Args:
        x: the residual path.
        y: what a layer adds to it.
        norm: frozen, affine.
        room: spare columns behind each row of the normalised result.
        back_room: spare columns behind each row of the gradient.
    """
    if active(x):
        s, n = _AddNorm.apply(x, y, norm, room, back_room)
        return s, n
    return plain_add_norm(x, y, norm)


def plain_add_norm(
    x: torch.Tensor, y: torch.Tensor | None, norm: torch.nn.LayerNorm
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in torch's own operations."""
    s = x if y is None else x + y
    return s, F.layer_norm(s, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
