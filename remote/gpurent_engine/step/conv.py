"""Frozen convolutions over NHWC maps, with or without an adapter (LoCon).

torch's own convolution keeps its input for a weight gradient that a frozen layer never computes; these do not.
A LoCon adapter (Yeh et al. 2023) is a convolution of the same size down to ``rank`` channels and a 1×1 one back up.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from gpurent_engine.step.bank import Region
from gpurent_engine.step.linear import add_up, grad_down
from gpurent_engine.step.rows import as_rows


class Conv:
    """A frozen ``base`` convolution, its bias left out if ``bias`` is False; see ``linear.Linear`` for ``anchor``."""

    def __init__(
        self, base: torch.nn.Conv2d, region: Region | None, anchor: torch.Tensor, *, bias: bool = True
    ) -> None:
        base.weight.data = base.weight.data.contiguous(memory_format=torch.channels_last)
        self.weight = base.weight.detach()
        self.bias = base.bias.detach() if bias and base.bias is not None else None
        self.stride, self.padding = [int(one) for one in base.stride], [int(one) for one in base.padding]
        self.region = region
        self.anchor = anchor if region is not None else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[n, height, width, in]`` to ``[n, height', width', out]``."""
        y: torch.Tensor = _Conv.apply(x, self.anchor, self)
        return y

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The convolution itself, NHWC in and out."""
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, self.stride, self.padding)
        return y.permute(0, 2, 3, 1).contiguous()

    def gradient(self, dy: torch.Tensor, weight: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Gradient of the input ``[n, height, width, in]``; it depends on the input's shape only."""
        # cuDNN converts dy to the layout of the input, so the stand-in for it needs the right one; nothing reads it
        stand_in = dy.new_empty(shape).permute(0, 3, 1, 2)
        dx: torch.Tensor = _backward(self, dy, stand_in, weight, (True, False, False))[0]
        return dx.permute(0, 2, 3, 1).contiguous()


def _backward(conv: Conv, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, mask: tuple[bool, ...]) -> Any:
    return torch.ops.aten.convolution_backward(
        dy.permute(0, 3, 1, 2), x, weight, None, conv.stride, conv.padding, [1, 1], False, [0, 0], 1, mask
    )


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, _anchor: torch.Tensor | None, conv: Conv) -> torch.Tensor:
        ctx.settings = (conv, x.shape)
        y = conv.forward(x, conv.weight, conv.bias)
        region = conv.region
        if region is not None:
            d = _per_adapter_conv(conv, x, region)
            add_up(as_rows(y), as_rows(d), region)
            ctx.save_for_backward(x, d)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        conv, shape = ctx.settings
        dy = gradients[0].contiguous()
        dx = conv.gradient(dy, conv.weight, shape) if ctx.needs_input_grad[0] else None
        region = conv.region
        if region is not None:
            x, d = ctx.saved_tensors
            dd = torch.empty_like(d)
            grad_down(as_rows(dd), as_rows(dy), region)
            _write_gradients(conv, x, d, dy=dy, dd=dd, region=region, dx=dx)
        return dx, None, None


def _kernel(down: torch.Tensor, region: Region) -> torch.Tensor:
    """``down`` ``[rank, kh · kw · in]`` as a convolution's weight ``[rank, in, kh, kw]``, channels last."""
    kernels: torch.Tensor = down.unflatten(1, (*region.kernel, -1))
    return kernels.permute(0, 3, 1, 2)


def _per_adapter_conv(conv: Conv, x: torch.Tensor, region: Region) -> torch.Tensor:
    n = region.down.shape[0]
    parts = [conv.forward(each, _kernel(down, region)) for each, down in zip(x.chunk(n), region.down, strict=True)]
    return (parts[0] if n == 1 else torch.cat(parts)).mul_(region.scale)


def _write_gradients(
    conv: Conv,
    x: torch.Tensor,
    d: torch.Tensor,
    *,
    dy: torch.Tensor,
    dd: torch.Tensor,
    region: Region,
    dx: torch.Tensor | None,
) -> None:
    n = region.down.shape[0]
    for i, (each_x, each_d, each_dy, each_dd) in enumerate(
        zip(x.chunk(n), d.chunk(n), dy.chunk(n), dd.chunk(n), strict=True)
    ):
        torch.mm(as_rows(each_dy).t(), as_rows(each_d), out=region.up_grad[i, 0])
        kernel = _kernel(region.down[i], region)
        mask = (dx is not None, True, False)
        found = _backward(conv, each_dd, each_x.permute(0, 3, 1, 2), kernel, mask)
        _kernel(region.down_grad[i], region).copy_(found[1])
        if dx is not None:
            dx.chunk(n)[i].add_(found[0].permute(0, 2, 3, 1))
