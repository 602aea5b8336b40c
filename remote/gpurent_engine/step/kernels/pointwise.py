"""GEGLU (Shazeer 2020), residual additions and the packing of attention gradients."""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from gpurent_engine.step.kernels.backend import INSTALLED, active, blocks, tl, triton
from gpurent_engine.step.rows import as_rows, with_room

ROWS, COLUMNS = 8, 256

if INSTALLED:

    @triton.jit(do_not_specialize=["T"])
    def _geglu(h, out, T, D, H_STRIDE, OUT_STRIDE, BR: tl.constexpr, BC: tl.constexpr):
        r = tl.program_id(0) * BR + tl.arange(0, BR)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        inside = (r < T)[:, None] & (c < D)[None, :]
        row = r.to(tl.int64)[:, None]
        value = tl.load(h + row * H_STRIDE + c[None, :], mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(h + row * H_STRIDE + D + c[None, :], mask=inside, other=0.0).to(tl.float32)
        y = value * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
        tl.store(out + row * OUT_STRIDE + c[None, :], y.to(out.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["T"])
    def _geglu_gradient(h, dout, dh, T, D, H_STRIDE, DOUT_STRIDE, DH_STRIDE, BR: tl.constexpr, BC: tl.constexpr):
        r = tl.program_id(0) * BR + tl.arange(0, BR)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        inside = (r < T)[:, None] & (c < D)[None, :]
        row = r.to(tl.int64)[:, None]
        value = tl.load(h + row * H_STRIDE + c[None, :], mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(h + row * H_STRIDE + D + c[None, :], mask=inside, other=0.0).to(tl.float32)
        d = tl.load(dout + row * DOUT_STRIDE + c[None, :], mask=inside, other=0.0).to(tl.float32)
        phi = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
        density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
        at = dh + row * DH_STRIDE + c[None, :]
        tl.store(at, (d * gate * phi).to(dh.dtype.element_ty), mask=inside)
        tl.store(at + D, (d * value * (phi + gate * density)).to(dh.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["T"])
    def _add(
        x, y, bias, out, T, D, X_STRIDE, Y_STRIDE, OUT_STRIDE, BIAS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr
    ):
        r = tl.program_id(0) * BR + tl.arange(0, BR)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        inside = (r < T)[:, None] & (c < D)[None, :]
        row = r.to(tl.int64)[:, None]
        v = tl.load(x + row * X_STRIDE + c[None, :], mask=inside, other=0.0).to(tl.float32)
        v += tl.load(y + row * Y_STRIDE + c[None, :], mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            v += tl.load(bias + c, mask=c < D, other=0.0).to(tl.float32)[None, :]
        tl.store(out + row * OUT_STRIDE + c[None, :], v.to(out.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["T"])
    def _pack3(a, b, c, out, T, D, OUT_STRIDE, BR: tl.constexpr, BC: tl.constexpr):
        """Three dense matrices side by side."""
        r = tl.program_id(0) * BR + tl.arange(0, BR)
        k = tl.program_id(1) * BC + tl.arange(0, BC)
        inside = (r < T)[:, None] & (k < D)[None, :]
        row = r.to(tl.int64)[:, None]
        at = row * D + k[None, :]
        to = out + row * OUT_STRIDE + k[None, :]
        tl.store(to, tl.load(a + at, mask=inside, other=0.0), mask=inside)
        tl.store(to + D, tl.load(b + at, mask=inside, other=0.0), mask=inside)
        tl.store(to + 2 * D, tl.load(c + at, mask=inside, other=0.0), mask=inside)


def _grid(rows: int, columns: int) -> tuple[int, int]:
    return blocks(rows, ROWS), blocks(columns, COLUMNS)


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, room: int, back_room: int) -> torch.Tensor:
        h2 = as_rows(h)
        rows, columns = h2.shape[0], h2.shape[1] // 2
        out = with_room((rows, columns), room, h2)
        _geglu[_grid(rows, columns)](h2, out, rows, columns, h2.stride(0), out.stride(0), BR=ROWS, BC=COLUMNS)
        ctx.save_for_backward(h2)
        ctx.settings = (h.shape, back_room)
        return out.view(*h.shape[:-1], columns)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (h2,) = ctx.saved_tensors
        shape, back_room = ctx.settings
        d = as_rows(gradients[0])
        rows, columns = d.shape
        dh = with_room((rows, 2 * columns), back_room, h2)
        _geglu_gradient[_grid(rows, columns)](
            h2, d, dh, rows, columns, h2.stride(0), d.stride(0), dh.stride(0), BR=ROWS, BC=COLUMNS
        )
        return dh.view(shape), None, None


def geglu(h: torch.Tensor, *, room: int = 0, back_room: int = 0) -> torch.Tensor:
    """``value · gelu(gate)`` of ``h`` ``[…, 2 d]``, whose first half is the value; the exact GELU, not its tanh."""
    if active(h):
        out: torch.Tensor = _Geglu.apply(h, room, back_room)
        return out
    return plain_geglu(h)


def plain_geglu(h: torch.Tensor) -> torch.Tensor:
    """The same in torch's own operations."""
    value, gate = h.chunk(2, dim=-1)
    return value * F.gelu(gate)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None, room: int) -> torch.Tensor:
        x2, y2 = as_rows(x), as_rows(y)
        rows, columns = x2.shape
        out = with_room((rows, columns), room, x2)
        _add[_grid(rows, columns)](
            x2,
            y2,
            x2 if bias is None else bias,
            out,
            rows,
            columns,
            x2.stride(0),
            y2.stride(0),
            out.stride(0),
            BIAS=bias is not None,
            BR=ROWS,
            BC=COLUMNS,
        )
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:  # noqa: ARG004
        return gradients[0], gradients[0], None, None


def add(x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None = None, *, room: int = 0) -> torch.Tensor:
    """``x + y + bias`` for ``[…, c]``; the bias is frozen. ``room``: spare columns behind each row."""
    if active(x):
        out: torch.Tensor = _Add.apply(x, y, bias, room)
        return out
    return x + y if bias is None else x + y + bias


def pack(parts: tuple[torch.Tensor, ...], room: int) -> torch.Tensor:
    """Matrices ``[rows, d]``, given as ``[b, heads, t, head]``, side by side: ``[b t, parts · heads · head]``."""
    b, heads, t, head = parts[0].shape
    rows, columns = b * t, heads * head
    dense = [part.transpose(1, 2) for part in parts]
    if len(parts) == 1 and not room:
        return dense[0].reshape(rows, columns)
    if len(parts) == 3 and active(parts[0]) and all(one.is_contiguous() for one in dense):
        out = with_room((rows, len(parts) * columns), room, parts[0])
        _pack3[_grid(rows, columns)](*dense, out, rows, columns, out.stride(0), BR=ROWS, BC=COLUMNS)
        return out
    if not room:
        return torch.stack(dense, dim=2).view(rows, -1)
    out = with_room((rows, len(parts) * columns), room, parts[0])
    split = out.as_strided((b, t, len(parts), heads, head), (t * out.stride(0), out.stride(0), columns, head, 1))
    for i, one in enumerate(dense):
        split[:, :, i].copy_(one)
    return out
