"""The UNet's residual convolution blocks and resampling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from gpurent_engine.step.build import Builder, UnsupportedError
from gpurent_engine.step.kernels.groupnorm import group_norm
from gpurent_engine.step.kernels.pointwise import add
from gpurent_engine.step.linear import Linear
from gpurent_engine.step.rows import as_rows


class Resnet:
    """Two convolutions behind GroupNorm and SiLU, the time step added in between, and a shortcut around them.

    The first convolution's bias is part of the time shift (``shift_bias``), the second's is added with the shortcut.
    """

    def __init__(self, builder: Builder, name: str) -> None:
        base = builder.module(name)
        if base.up or base.down or base.time_embedding_norm != "default" or base.output_scale_factor != 1:
            raise UnsupportedError(f"{name} resamples or scales")
        if base.skip_time_act or type(base.nonlinearity).__name__ not in ("SiLU", "Swish"):
            raise UnsupportedError(f"{name} has another activation than SiLU")
        self.name = name
        self.norms = (base.norm1, base.norm2)
        self.conv1 = builder.conv(f"{name}.conv1", bias=False)
        self.conv2 = builder.conv(f"{name}.conv2", bias=False)
        self.shift_bias = (base.time_emb_proj.bias + base.conv1.bias).detach()
        self.bias = base.conv2.bias.detach()
        self.recompute = builder.recompute
        self.shortcut: Linear | None = None
        if base.conv_shortcut is not None:
            self.bias = (self.bias + base.conv_shortcut.bias).detach()
            self.shortcut = builder.linear(f"{name}.conv_shortcut")
            self.shortcut.bias = None

    def __call__(self, x: torch.Tensor, skip: torch.Tensor | None, shift: torch.Tensor) -> torch.Tensor:
        """Maps ``[b, height, width, c]``, and ``shift`` ``[b, out]``: the projected time step with ``shift_bias``."""
        if self.recompute.what == "blocks":
            y: torch.Tensor = checkpoint(self._forward, x, skip, shift, use_reentrant=False, preserve_rng_state=False)
            return y
        return self._forward(x, skip, shift)

    def _forward(self, x: torch.Tensor, skip: torch.Tensor | None, shift: torch.Tensor) -> torch.Tensor:
        h, x, skip = group_norm(x, self.norms[0], act=True, skip=skip)
        h, _, _ = group_norm(self.conv1(h), self.norms[1], act=True, shift=shift)
        h = self.conv2(h)
        if self.shortcut is None:
            around = x if skip is None else torch.cat([x, skip], dim=-1)
        elif skip is None:
            around = self.shortcut(x)
        elif self.shortcut.region is not None:
            around = self.shortcut(torch.cat([x, skip], dim=-1))
        else:
            around = _TwoInputs.apply(x, skip, self.shortcut.weight)
        return add(around, h, self.bias)


class _TwoInputs(torch.autograd.Function):
    """``[x skip] Wᵀ`` without the concatenation."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, skip: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        c1 = x.shape[-1]
        ctx.settings = (weight, x.shape, skip.shape)
        y = torch.mm(as_rows(x), weight[:, :c1].t())
        y.addmm_(as_rows(skip), weight[:, c1:].t())
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        weight, x_shape, skip_shape = ctx.settings
        dy, c1 = as_rows(gradients[0]), x_shape[-1]
        return torch.mm(dy, weight[:, :c1]).view(x_shape), torch.mm(dy, weight[:, c1:]).view(skip_shape), None


class Upsample:
    """Nearest neighbour to twice the size (or that of the map it will meet), then a convolution."""

    def __init__(self, builder: Builder, name: str) -> None:
        base = builder.module(name)
        if not base.use_conv or base.use_conv_transpose or base.norm is not None:
            raise UnsupportedError(f"{name} is not a plain upsampler")
        self.conv = builder.conv(f"{name}.conv")

    def __call__(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """``[b, height, width, c]`` to ``[b, *size, c]``."""
        b, height, width, c = x.shape
        if size == (2 * height, 2 * width):
            grown = x[:, :, None, :, None, :].expand(b, height, 2, width, 2, c).reshape(b, *size, c)
        else:
            grown = F.interpolate(x.permute(0, 3, 1, 2), size=size, mode="nearest").permute(0, 2, 3, 1).contiguous()
        return self.conv(grown)
