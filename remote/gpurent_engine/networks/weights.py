"""Adapters that change a layer's weight: LoHa, LoKr, DoRA, and LoRA with dropouts.

Each wraps a layer of the base and holds its parameters in float32 under their names in the file. Sources:

* LoRA and its three dropouts: kohya-ss/sd-scripts ``networks/lora.py`` (LoRAModule.forward).
* LoHa: Hyeon-Woo et al. 2021, "FedPara"; KohakuBlueleaf/LyCORIS ``lycoris/modules/loha.py``.
* LoKr: Yeh et al. 2023, "Navigating Text-To-Image Customization"; ``lycoris/modules/lokr.py``.
* DoRA: Liu et al. 2024, "Weight-Decomposed Low-Rank Adaptation"; ``apply_weight_decompose`` of the same modules.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gpurent_engine.deltas import change, factors, lengths
from gpurent_engine.networkargs import NetworkArgs
from gpurent_engine.networks.network import Mode
from gpurent_engine.networks.plan import Layer

Shape = tuple[int, ...]


def shapes(layer: Layer, weight: torch.Size, args: NetworkArgs) -> dict[str, Shape]:
    """Names and shapes of a layer's tensors, in the order in which they are drawn.

    Args:
        layer: kind and rank.
        weight: of the base, ``[out, in]`` or ``[out, in, kh, kw]``.
        args: options of the kind.
    """
    out, into, *kernel = weight
    rank, area = layer.rank, math.prod(kernel)
    ones = (1,) * len(kernel)
    found: dict[str, Shape]
    if layer.algo == "loha":
        found = {
            "hada_w1_a": (out, rank), "hada_w1_b": (rank, into * area), "hada_w2_a": (out, rank),
            "hada_w2_b": (rank, into * area),
        }  # fmt: skip
    elif layer.algo == "lokr":
        found = _kronecker(rank, out, into, tuple(kernel), args=args)
    else:
        found = {"lora_down.weight": (rank, into, *kernel), "lora_up.weight": (out, rank, *ones)}
    if layer.dora:
        found["dora_scale"] = (out, 1, *ones) if args.dora_on_output else (1, into, *ones)
    return found


def _kronecker(rank: int, out: int, into: int, kernel: Shape, *, args: NetworkArgs) -> dict[str, Shape]:
    (small_out, large_out), (small_in, large_in) = factors(out, args.factor), factors(into, args.factor)
    found: dict[str, Shape] = {}
    if args.decompose_both and rank < max(small_out, small_in) / 2:
        found |= {"lokr_w1_a": (small_out, rank), "lokr_w1_b": (rank, small_in)}
    else:
        found["lokr_w1"] = (small_out, small_in)
    if rank < max(large_out, large_in) / 2:
        found |= {"lokr_w2_a": (large_out, rank), "lokr_w2_b": (rank, large_in * math.prod(kernel))}
    else:
        found["lokr_w2"] = (large_out, large_in, *kernel)
    return found


def first(name: str, shape: Shape, generator: torch.Generator, base: Tensor) -> Tensor:
    """First value of a tensor, float32 on the CPU: what a layer adds is zero at the start.

    Args:
        name: suffix in the file.
        shape: of the tensor.
        generator: on the CPU.
        base: the layer's own weight, for ``dora_scale``.
    """
    if name == "dora_scale":
        return lengths(base.detach().float().cpu(), on_output=shape[0] != 1)
    value = torch.empty(shape, device="cpu")
    if name in ("lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_b"):
        return value.zero_()
    if name.startswith("hada"):
        return value.normal_(std=0.1 if name == "hada_w1_a" else 1.0, generator=generator)
    return torch.nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)


class Adapted(torch.nn.Module):
    """A layer of the base with an adapter. The base's own layer stays as it is."""

    def __init__(self, base: Any, layer: Layer, args: NetworkArgs, tensors: dict[str, Tensor], *, mode: Mode) -> None:
        super().__init__()
        self.base_layer = base
        self._layer = layer
        self._args = args
        self._mode = mode
        self._scale = layer.alpha / layer.rank
        self._names = {name.replace(".", "_"): name for name in tensors}
        for attribute, name in self._names.items():
            setattr(self, attribute, torch.nn.Parameter(tensors[name]))

    @property
    def weight(self) -> Tensor:
        """Of the base's layer."""
        weight: Tensor = self.base_layer.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """Of the base's layer."""
        bias: Tensor | None = self.base_layer.bias
        return bias

    def get_base_layer(self) -> Any:
        """The base's own layer, as peft calls it."""
        return self.base_layer

    def tensors(self) -> dict[str, torch.nn.Parameter]:
        """Parameters by their suffixes in the file."""
        return {name: getattr(self, attribute) for attribute, name in self._names.items()}

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with the adapter's part in it."""
        args, training = self._args, self._mode.training
        if training and args.module_dropout and float(torch.rand(())) < args.module_dropout:
            out: Tensor = self.base_layer(x)
            return out
        if self._layer.plain:
            return self._low_rank(x, training)
        return self._whole(x, training)

    def _low_rank(self, x: Tensor, training: bool) -> Tensor:
        args, tensors = self._args, self.tensors()
        down, up = tensors["lora_down.weight"], tensors["lora_up.weight"]
        inner = self._product(x, down, self.base_layer)
        scale = self._scale
        if training and args.dropout:
            inner = functional.dropout(inner, args.dropout)
        if training and args.rank_dropout:
            shape = (x.shape[0], self._layer.rank)
            kept = (torch.rand(shape, device=x.device) > args.rank_dropout).to(inner.dtype)
            inner = inner * _spread(kept, inner.dim())
            scale = scale / (1 - args.rank_dropout)
        outer = functional.conv2d(inner, up) if up.dim() == 4 else functional.linear(inner, up)
        out: Tensor = self.base_layer(x) + outer * scale
        return out

    def _whole(self, x: Tensor, training: bool) -> Tensor:
        """By way of the changed weight; the change is computed in float32, whatever autocast does around it."""
        base = self.base_layer.weight
        with torch.autocast(x.device.type, enabled=False):
            added = change({name: one.float() for name, one in self.tensors().items()}, base.shape, self._scale)
            if training and self._args.rank_dropout:
                kept = (torch.rand(base.shape[0], device=x.device) > self._args.rank_dropout).float()
                added = added * kept.view(-1, *(1,) * (base.dim() - 1))
            weight = base.float() + added
            if self._layer.dora:
                magnitude = self.tensors()["dora_scale"]
                norm = lengths(weight, on_output=self._args.dora_on_output) + torch.finfo(torch.float32).eps
                weight = weight * (magnitude / norm)
        if torch.is_autocast_enabled(x.device.type):
            weight = weight.to(torch.get_autocast_dtype(x.device.type))
        else:
            weight = weight.to(x.dtype)
        return self._product(x, weight, self.base_layer, self.base_layer.bias)

    @staticmethod
    def _product(x: Tensor, weight: Tensor, like: Any, bias: Tensor | None = None) -> Tensor:
        if isinstance(like, torch.nn.Conv2d):
            return functional.conv2d(x, weight, bias, like.stride, like.padding, like.dilation, like.groups)
        return functional.linear(x, weight, bias)


def _spread(kept: Tensor, dimensions: int) -> Tensor:
    """A mask ``[b, r]`` for values ``[b, r]``, ``[b, n, r]`` or ``[b, r, h, w]``."""
    if dimensions == 4:
        return kept[..., None, None]
    return kept[:, None] if dimensions == 3 else kept
