"""From a frozen model and a list of adapter sites to layers of ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpurent_engine.step.bank import Region, Site
from gpurent_engine.step.conv import Conv
from gpurent_engine.step.linear import Linear


class UnsupportedError(Exception):
    """This model or adapter is not one that the fast step knows; the plain step trains it."""


@dataclass
class Recompute:
    """What recomputes its activations in the backward pass; shared by all blocks, and may change between steps."""

    what: str = "none"


class Merged:
    """Several projections of one input; one product where their adapters allow it."""

    def __init__(self, layers: list[Linear]) -> None:
        self.layers = layers

    @property
    def room(self) -> int:
        """Spare columns wanted behind the input and behind the gradient of the output."""
        return self.layers[0].room if len(self.layers) == 1 else 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` to ``[…, all outputs]``."""
        if len(self.layers) == 1:
            return self.layers[0](x)
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


class Builder:
    """Makes layers over the weights of ``model``, and the regions of their adapters.

    Args:
        model: frozen; its weights are shared, not copied, except where layers are merged (then the model's own
            weights become views of the merged one).
        part: the name of this model in ``Site.part``.
        sites: all sites of the run; those of other parts are ignored.
        anchor: see ``linear.Linear``.
        stacked: whether linear layers may keep stacked tables.
        recompute: see ``switches.Switches.checkpoint``.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        part: str,
        sites: Iterable[Site],
        anchor: torch.Tensor,
        *,
        stacked: bool,
        recompute: Recompute | None = None,
    ) -> None:
        self.model, self.anchor, self.stacked = model, anchor, stacked
        self.recompute = recompute or Recompute()
        self.regions: list[Region] = []
        self._sites = {site.name: site for site in sites if site.part == part}

    def module(self, name: str) -> Any:
        """A module of the model by its dotted name.

        Raises:
            UnsupportedError: there is none.
        """
        try:
            return self.model.get_submodule(name)
        except AttributeError as error:
            raise UnsupportedError(f"the model has no {name}") from error

    def has_adapter(self, name: str) -> bool:
        """Whether a site that is not built yet has this name."""
        return name in self._sites

    def linear(self, name: str) -> Linear:
        """A single linear layer or 1×1 convolution."""
        return self._linear([name], self.stacked)

    def merged(self, names: Sequence[str], *, stacked: bool = True) -> Merged:
        """Projections of one input, merged if their sizes and adapters are alike."""
        kinds = {(site.rank, site.scale, site.group) if (site := self._sites.get(name)) else None for name in names}
        shapes = {tuple(self.module(name).weight.shape) for name in names}
        if len(kinds) == 1 and len(shapes) == 1:
            return Merged([self._linear(names, self.stacked and stacked)])
        return Merged([self._linear([name], False) for name in names])

    def conv(self, name: str, *, bias: bool = True) -> Conv:
        """A convolution; without its bias if something else adds it."""
        base = self.module(name)
        if not isinstance(base, torch.nn.Conv2d) or base.groups != 1 or base.dilation != (1, 1):
            raise UnsupportedError(f"{name} is not a plain convolution")
        if base.padding_mode != "zeros" or not isinstance(base.padding, tuple):
            raise UnsupportedError(f"{name} pads in a way that is not known")
        site = self._sites.pop(name, None)
        region = None
        if site is not None:
            kernel = (base.kernel_size[0], base.kernel_size[1])
            region = Region((site,), kernel[0] * kernel[1] * base.in_channels, base.out_channels, kernel, linear=False)
            self.regions.append(region)
        return Conv(base, region, self.anchor, bias=bias)

    def _linear(self, names: Sequence[str], stacked: bool) -> Linear:
        bases = [self.module(name) for name in names]
        for name, base in zip(names, bases, strict=True):
            one_by_one = isinstance(base, torch.nn.Conv2d) and base.kernel_size == (1, 1) and base.stride == (1, 1)
            if not isinstance(base, torch.nn.Linear) and not one_by_one:
                raise UnsupportedError(f"{name} is a {type(base).__name__}")
        sites = [self._sites.pop(name) for name in names if name in self._sites]
        region = None
        if sites:
            fan_out, fan_in = bases[0].weight.shape[:2]
            region = Region(tuple(sites), fan_in, fan_out, linear=isinstance(bases[0], torch.nn.Linear))
            self.regions.append(region)
        return Linear(bases, region, self.anchor, stacked=stacked)

    def finish(self) -> list[Region]:
        """The regions of all adapters.

        Raises:
            UnsupportedError: an adapter sits on a layer that the fast step does not build.
        """
        if self._sites:
            raise UnsupportedError(f"there is an adapter on {next(iter(self._sites))}")
        return self.regions
