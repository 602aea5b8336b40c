"""Which layers get an adapter, what they are called in the file, with which rank, alpha and learning rate.

Targets and names are those of kohya-ss/sd-scripts ``networks/lora.py``: linear layers and 1×1 convolutions in the
transformers of the UNet, linear layers of attention and MLP of the text encoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gpurent_engine import names
from gpurent_engine.families.parts import ModelError, Parts
from gpurent_engine.spec import TrainSpec

UNET = "unet"


@dataclass(frozen=True)
class Layer:
    """One layer of the base that gets an adapter."""

    part: str
    """``unet``, or the folder of a text encoder."""
    module: str
    """Its path in that part."""
    key: str
    """Its name in the LoRA file, without suffix."""
    rank: int
    alpha: float


@dataclass(frozen=True)
class Group:
    """Layers that share a learning rate."""

    part: str
    rate: float
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Plan:
    """The whole network, group by group: the UNet first, then text encoders, each in the order of ``names``."""

    groups: tuple[Group, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in order."""
        return tuple(layer for group in self.groups for layer in group.layers)

    def trains(self, part: str) -> bool:
        """Whether that part has an adapter."""
        return any(group.part == part for group in self.groups)


def model_of(parts: Parts, part: str) -> Any:
    """The module in which ``Layer.module`` is looked up."""
    if part == UNET:
        return parts.unet
    return next(encoder.inner for encoder in parts.text_encoders if encoder.facts.folder == part)


def plan(parts: Parts, spec: TrainSpec) -> Plan:
    """Plan the network that ``spec`` asks for.

    Raises:
        ModelError: the base lacks a layer that its architecture promises.
    """
    groups = []
    if spec.train_unet:
        sites = [site for site in names.unet_sites(parts.unet.config) if site.kind == "attention"]
        layers = [
            Layer(UNET, site.module, names.unet_key(site, parts.family.sgm_names), spec.network_dim, spec.network_alpha)
            for site in sites
        ]
        groups.append(Group(UNET, spec.lr_of_unet, tuple(layers)))
    for index, encoder in enumerate(parts.text_encoders):
        rate = spec.lr_of_text_encoder(index)
        if spec.network_train_unet_only or not rate:
            continue
        layers = [
            Layer(
                encoder.facts.folder, path, names.text_key(encoder.facts.prefix, path), spec.network_dim,
                spec.network_alpha,
            )
            for path in names.text_sites(len(encoder.inner.encoder.layers))
        ]  # fmt: skip
        groups.append(Group(encoder.facts.folder, rate, tuple(layers)))
    found = Plan(tuple(groups))
    _check(parts, found)
    return found


def _check(parts: Parts, found: Plan) -> None:
    """A library that moved a module would otherwise give a LoRA with a hole in it."""
    for group in found.groups:
        modules = dict(model_of(parts, group.part).named_modules())
        for layer in group.layers:
            if not isinstance(modules.get(layer.module), torch.nn.Linear | torch.nn.Conv2d):
                raise ModelError(f"the base's {group.part} has no layer {layer.module}, which {layer.key} belongs to")
