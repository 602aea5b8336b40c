"""A frozen linear layer with its adapter as one autograd function.

For input ``x`` ``[T, K]``, frozen ``W`` ``[S·O, K]``, adapter ``A`` ``[S·r, K]`` and ``B`` ``[S, O, r]``::

    d  = scale · x Aᵀ                    dd = scale · dy B
    y  = x Wᵀ + b + d Bᵀ                 dx = dy W + dd A        dA = ddᵀ x        dB = dyᵀ d

``S`` projections of one input (query, key and value) are merged: ``W`` holds them one below the other. ``W`` and ``b``
get no gradient, the products with ``A`` and ``B`` accumulate in place, and ``dA`` and ``dB`` go straight into the bank.

*Stacked*: with the weight table ``[[W, B], [A, 0]]`` and spare columns behind ``x`` and ``dy`` (``rows.py``), the
second terms of ``y`` and ``dx`` cost no extra pass over memory: ``y = [x d] [W B]ᵀ`` and ``dx = [dy dd] [W; A]``.
"""

from __future__ import annotations

from typing import Any

import torch

from gpurent_engine.step.bank import Region
from gpurent_engine.step.rows import as_rows, widened, with_room

ALIGNMENT = 8
"""Columns: matrix products are fast where rows start at multiples of 16 bytes."""


class Linear:
    """``S`` frozen linear layers (or 1×1 convolutions) that share their input, and their adapters, if any.

    Args:
        bases: the frozen layers, of equal size.
        region: where the adapters are; None for none.
        anchor: a scalar that requires a gradient. Adapters are no leaves of autograd, and without one such input
            nothing would be recorded for the first layer.
        stacked: whether to keep ``[[W, B], [A, 0]]``; only for one adapter whose rank fills whole alignments.
    """

    def __init__(
        self, bases: list[torch.nn.Module], region: Region | None, anchor: torch.Tensor, *, stacked: bool = False
    ) -> None:
        weights = [_weight(base) for base in bases]
        self.slices, self.region = len(bases), region
        self.anchor = anchor if region is not None else None
        self.fan_out, self.fan_in = weights[0].shape
        self.stacked = (
            stacked and region is not None and region.columns % ALIGNMENT == 0 and self.fan_in % ALIGNMENT == 0
        )
        biases = [base.bias for base in bases]
        self.bias: torch.Tensor | None = None
        if any(isinstance(bias, torch.Tensor) for bias in biases):
            zero = weights[0].new_zeros(self.fan_out)
            rows = [bias.detach() if isinstance(bias, torch.Tensor) else zero for bias in biases]
            self.bias = rows[0] if len(rows) == 1 else torch.cat(rows)
        if self.stacked:
            assert region is not None
            self.table = self._stack(weights, region)
            self.weight = self.table[: self.slices * self.fan_out, : self.fan_in]
        else:
            self.weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        if self.stacked or len(weights) > 1:
            for base, part in zip(bases, self.weight.chunk(self.slices), strict=True):
                _point(base, part)  # the base's own copy of the weight is freed

    def _stack(self, weights: list[torch.Tensor], region: Region) -> torch.Tensor:
        out, wide, r = self.slices * self.fan_out, region.columns, region.rank
        table = weights[0].new_zeros(out + wide, self.fan_in + wide)
        for rows, weight in zip(table[:out, : self.fan_in].chunk(self.slices), weights, strict=True):
            rows.copy_(weight)
        region.stacked = True
        region.down = table[None, out:, : self.fan_in]
        stride = table.stride(0)
        region.up = table.as_strided(
            (1, self.slices, self.fan_out, r),
            (table.numel(), self.fan_out * stride + r, stride, 1),
            table.storage_offset() + self.fan_in,
        )
        return table

    @property
    def room(self) -> int:
        """Spare columns that this layer wants behind its input and behind the gradient of its output."""
        return self.region.columns if self.stacked and self.region is not None else 0

    def __call__(self, x: torch.Tensor, *, back_room: int = 0) -> torch.Tensor:
        """``[…, K]`` to ``[…, S·O]``. ``back_room``: spare columns behind the gradient of ``x``."""
        y: torch.Tensor = _Linear.apply(x, self.anchor, self, back_room)
        return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, _anchor: torch.Tensor | None, layer: Linear, back_room: int) -> torch.Tensor:
        x2 = as_rows(x)
        ctx.settings = (layer, x.shape, back_room)
        region = layer.region
        if region is None:
            y = _product(x2, layer.weight, layer.bias)
        else:
            wide = widened(x2, layer.room)
            if wide is not None:
                d = torch.addmm(
                    wide[:, layer.fan_in :],
                    x2,
                    region.down[0].t(),
                    beta=0,
                    alpha=region.scale,
                    out=wide[:, layer.fan_in :],
                )
                y = _product(wide, layer.table[: layer.weight.shape[0]], layer.bias)
            else:
                d = _down(x2, region)
                y = _product(x2, layer.weight, layer.bias)
                add_up(y, d, region)
            ctx.save_for_backward(x2, d)
        return y.view(*x.shape[:-1], y.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        layer, shape, back_room = ctx.settings
        region = layer.region
        dy = as_rows(gradients[0])
        wants_dx = ctx.needs_input_grad[0]
        dx = with_room((dy.shape[0], layer.fan_in), back_room, dy) if wants_dx else None
        if region is None:
            if dx is not None:
                torch.mm(dy, layer.weight, out=dx)
            return None if dx is None else dx.view(shape), None, None, None
        x2, d = ctx.saved_tensors
        wide = widened(dy, layer.room)
        dd = dy.new_empty(dy.shape[0], region.columns) if wide is None else wide[:, dy.shape[1] :]
        grad_down(dd, dy, region)
        _write_gradients(x2, d, dy, dd, region)
        if dx is not None:
            if wide is not None:
                torch.mm(wide, layer.table[:, : layer.fan_in], out=dx)
            else:
                torch.mm(dy, layer.weight, out=dx)
                n = region.down.shape[0]
                if n == 1:
                    dx.addmm_(dd, region.down[0])
                else:
                    _per_adapter(dx, n).baddbmm_(_per_adapter(dd, n), region.down)
        return None if dx is None else dx.view(shape), None, None, None


def _weight(base: torch.nn.Module) -> torch.Tensor:
    weight = base.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().reshape(weight.shape[0], -1)


def _point(base: torch.nn.Module, rows: torch.Tensor) -> None:
    weight = base.weight
    assert isinstance(weight, torch.nn.Parameter)
    weight.data = rows if weight.dim() == 2 else rows[:, :, None, None]


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


def _per_adapter(x: torch.Tensor, n: int) -> torch.Tensor:
    """``[n, rows / n, columns]``: the samples of each adapter follow one another."""
    view: torch.Tensor = x.unflatten(0, (n, -1))
    return view


def _down(x: torch.Tensor, region: Region) -> torch.Tensor:
    """``scale · x downᵀ``: ``[rows, sites · rank]``."""
    n = region.down.shape[0]
    d = x.new_empty(x.shape[0], region.columns)
    if n == 1:
        return torch.addmm(d, x, region.down[0].t(), beta=0, alpha=region.scale, out=d)
    view = _per_adapter(d, n)
    torch.baddbmm(view, _per_adapter(x, n), region.down.transpose(1, 2), beta=0, alpha=region.scale, out=view)
    return d


def add_up(y: torch.Tensor, d: torch.Tensor, region: Region) -> None:
    """``y += d upᵀ`` in place, site by site."""
    n, sites, _, r = region.up.shape
    if n == 1 and sites == 1:
        y.addmm_(d, region.up[0, 0].t())
        return
    for up, each_y, each_d in zip(region.up, _per_adapter(y, n), _per_adapter(d, n), strict=True):
        each_y.unflatten(1, (sites, -1)).transpose(0, 1).baddbmm_(
            each_d.unflatten(1, (sites, r)).transpose(0, 1), up.transpose(1, 2)
        )


def grad_down(dd: torch.Tensor, dy: torch.Tensor, region: Region) -> None:
    """``dd = scale · dy up``, into ``dd`` ``[rows, sites · rank]``."""
    n, sites, _, r = region.up.shape
    if n == 1 and sites == 1:
        torch.addmm(dd, dy, region.up[0, 0], beta=0, alpha=region.scale, out=dd)
        return
    for up, each_dy, each_dd in zip(region.up, _per_adapter(dy, n), _per_adapter(dd, n), strict=True):
        out = each_dd.unflatten(1, (sites, r)).transpose(0, 1)
        torch.baddbmm(out, each_dy.unflatten(1, (sites, -1)).transpose(0, 1), up, beta=0, alpha=region.scale, out=out)


def _write_gradients(x: torch.Tensor, d: torch.Tensor, dy: torch.Tensor, dd: torch.Tensor, region: Region) -> None:
    """``dA = ddᵀ x`` and ``dB = dyᵀ d`` into the bank."""
    n, sites, _, r = region.up.shape
    if n == 1:
        torch.mm(dd.t(), x, out=region.down_grad[0])
    else:
        torch.bmm(_per_adapter(dd, n).transpose(1, 2), _per_adapter(x, n), out=region.down_grad)
    if n == 1 and sites == 1:
        torch.mm(dy.t(), d, out=region.up_grad[0, 0])
        return
    for grad, each_dy, each_d in zip(region.up_grad, _per_adapter(dy, n), _per_adapter(d, n), strict=True):
        torch.bmm(
            each_dy.unflatten(1, (sites, -1)).permute(1, 2, 0),
            each_d.unflatten(1, (sites, r)).transpose(0, 1),
            out=grad,
        )
