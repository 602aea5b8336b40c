"""All adapters of a run in a few flat buffers.

Masters are float32. What the layers compute with is a copy in the base's format, made once an optimiser step and not
once a layer and step. Layers write their gradients straight into a third buffer. So clipping, AdamW and casting are
each one pass over one tensor, whatever the number of layers, and nothing of it waits for the CPU.

``N`` adapters can be trained at once over one frozen base (*packed*): every buffer has a first dimension ``N``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Site:
    """One layer of the base that carries an adapter.

    ``part`` and ``name`` say where it is: ``("unet", "mid_block.resnets.0.conv1")``. ``key`` is its name in the LoRA
    file. The adapter adds ``scale · up(down(x))`` (Hu et al. 2021, ``scale = alpha / rank``). ``group`` chooses its
    learning rate.
    """

    key: str
    part: str
    name: str
    rank: int
    scale: float
    group: int = 0


@dataclass
class Region:
    """Where the adapters of a layer lie; several sites where the layer merges several projections of one input.

    ``down`` is ``[N, sites · rank, fan_in]`` and ``up`` ``[N, sites, fan_out, rank]``, both in the compute format;
    the gradients have the same shapes. ``kernel`` is ``(kh, kw)`` of a convolution, whose ``fan_in`` is ordered
    ``(kh, kw, channels)``: the order in which cuDNN wants NHWC weights. An ``idle`` layer lies behind the one whose
    output is taken: it never runs, and its adapters stay as they are.
    """

    sites: tuple[Site, ...]
    fan_in: int
    fan_out: int
    kernel: tuple[int, int] = (1, 1)
    linear: bool = True
    stacked: bool = False
    idle: bool = False
    down: torch.Tensor = field(init=False, repr=False)
    up: torch.Tensor = field(init=False, repr=False)
    down_grad: torch.Tensor = field(init=False, repr=False)
    up_grad: torch.Tensor = field(init=False, repr=False)

    @property
    def rank(self) -> int:
        """The sites' common rank."""
        return self.sites[0].rank

    @property
    def scale(self) -> float:
        """The sites' common factor."""
        return self.sites[0].scale

    @property
    def columns(self) -> int:
        """How many columns ``x downᵀ`` has."""
        return len(self.sites) * self.rank

    @property
    def sizes(self) -> tuple[int, int]:
        """Elements of ``down`` and ``up`` of one adapter."""
        return self.columns * self.fan_in, len(self.sites) * self.fan_out * self.rank


@dataclass(frozen=True)
class Segment:
    """A stretch ``[start, end)`` of the flat buffers with one learning rate; ``up`` or ``down`` matrices only."""

    start: int
    end: int
    group: int
    up: bool
    idle: bool = False


class Bank:
    """Masters, compute copies and gradients of all adapters.

    ``masters`` is float32 ``[N, size]``; ``gradients`` and ``shadow`` are ``[N, size]`` in ``dtype``. A stacked region
    computes with views of its layer's weight table instead of ``shadow``: see ``linear.py``.
    """

    def __init__(self, regions: Sequence[Region], *, adapters: int, device: torch.device, dtype: torch.dtype) -> None:
        self.regions, self.adapters, self.dtype = tuple(regions), adapters, dtype
        keys = [site.key for region in regions for site in region.sites]
        assert len(keys) == len(set(keys)), "a site is in two regions"
        self.segments, self.offsets = _layout(self.regions)
        size = self.segments[-1].end if self.segments else 0
        self.masters = torch.zeros(adapters, size, device=device)
        self.gradients = torch.zeros(adapters, size, device=device, dtype=dtype)
        self.shadow = torch.zeros(adapters, size, device=device, dtype=dtype)
        for region, (down_at, up_at) in zip(self.regions, self.offsets, strict=True):
            region.down_grad, region.up_grad = self._views(self.gradients, region, down_at, up_at)
            if not region.stacked:
                region.down, region.up = self._views(self.shadow, region, down_at, up_at)

    @property
    def size(self) -> int:
        """Trained numbers of one adapter."""
        return self.masters.shape[1]

    def _views(
        self, buffer: torch.Tensor, region: Region, down_at: int, up_at: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        downs, ups = region.sizes
        down = buffer[:, down_at : down_at + downs].unflatten(1, (region.columns, region.fan_in))
        up = buffer[:, up_at : up_at + ups].unflatten(1, (len(region.sites), region.fan_out, region.rank))
        return down, up

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the masters to where the layers read them. Needed after masters change in any way but an update."""
        self.shadow.copy_(self.masters)
        for region, (down_at, up_at) in zip(self.regions, self.offsets, strict=True):
            if region.stacked:
                down, up = self._views(self.masters, region, down_at, up_at)
                region.down.copy_(down)
                region.up.copy_(up)

    def tensors(self, buffer: torch.Tensor, adapter: int = 0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """``{site key: (down, up)}``, views of ``buffer`` (masters, gradients or a moment) in the shapes peft stores.

        A linear layer's are ``[rank, in]`` and ``[out, rank]``; a convolution's ``[rank, in, kh, kw]`` and
        ``[out, rank, 1, 1]``.
        """
        found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for region, (down_at, up_at) in zip(self.regions, self.offsets, strict=True):
            down, up = self._views(buffer[adapter : adapter + 1], region, down_at, up_at)
            for i, site in enumerate(region.sites):
                a, b = down[0, i * region.rank : (i + 1) * region.rank], up[0, i]
                if not region.linear:
                    a = a.unflatten(1, (*region.kernel, -1)).permute(0, 3, 1, 2)
                    b = b[:, :, None, None]
                found[site.key] = (a, b)
        return found

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, adapter: int = 0) -> None:
        """``down`` Kaiming-uniform with a = √5, as kohya's trainer and peft draw it; ``up`` zero."""
        for down, up in self.tensors(self.masters, adapter).values():
            bound = 1 / math.sqrt(down[0].numel())
            drawn = torch.empty(down.shape, device=generator.device).uniform_(-bound, bound, generator=generator)
            down.copy_(drawn)
            up.zero_()
        self.refresh()

    @torch.no_grad()
    def load(self, values: dict[str, tuple[torch.Tensor, torch.Tensor]], adapter: int = 0) -> None:
        """Put ``{site key: (down, up)}`` into the masters.

        Raises:
            KeyError: a site is missing in ``values`` or not known here.
        """
        mine = self.tensors(self.masters, adapter)
        odd = sorted(set(mine) ^ set(values))
        if odd:
            raise KeyError(f"adapters do not match this model: {odd[0]} and {len(odd) - 1} more")
        for key, (down, up) in values.items():
            mine[key][0].copy_(down.reshape(mine[key][0].shape))
            mine[key][1].copy_(up.reshape(mine[key][1].shape))
        self.refresh()


def _layout(regions: Sequence[Region]) -> tuple[list[Segment], list[tuple[int, int]]]:
    """Segments by learning rate, ``down`` before ``up``, idle ones last; and each region's two offsets."""
    at: list[list[int]] = [[0, 0] for _ in regions]
    segments: list[Segment] = []
    position = 0
    for idle, group in sorted({(region.idle, site.group) for region in regions for site in region.sites}):
        for which in (0, 1):
            start = position
            for place, region in zip(at, regions, strict=True):
                if (region.idle, region.sites[0].group) == (idle, group):
                    place[which] = position
                    position += region.sizes[which]
            segments.append(Segment(start, position, group, bool(which), idle))
    return segments, [(down, up) for down, up in at]
