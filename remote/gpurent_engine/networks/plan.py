"""Which layers get an adapter, what they are called in the file, with which rank, alpha and learning rate.

Targets and names are those of kohya-ss/sd-scripts ``networks/lora.py``: linear layers and 1×1 convolutions in the
transformers of the UNet, linear layers of attention and MLP of the text encoders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from gpurent_engine import names, networkargs
from gpurent_engine.families.parts import ModelError, Parts
from gpurent_engine.networkargs import Algo, NetworkArgs
from gpurent_engine.spec import SpecError, TrainSpec

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
    algo: Algo = "lora"
    dora: bool = False
    """Whether the length of each weight vector is learnt apart."""

    @property
    def plain(self) -> bool:
        """A LoRA and nothing else: what every stepper knows."""
        return self.algo == "lora" and not self.dora


@dataclass(frozen=True)
class Group:
    """Layers that share a learning rate."""

    part: str
    rate: float
    layers: tuple[Layer, ...]
    plus: float = 1.0
    """Rate of the up matrices ÷ ``rate`` (LoRA+)."""


@dataclass(frozen=True)
class Plan:
    """The whole network, group by group: the UNet first, then text encoders, each in the order of ``names``."""

    groups: tuple[Group, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in order."""
        return tuple(layer for group in self.groups for layer in group.layers)

    def alphas(self, names: Collection[str]) -> dict[str, float]:
        """Alpha of each layer as readers apply it, for a file with tensors of these names.

        A LoKr of two full matrices is not scaled, and alpha = rank says so (LyCORIS ``lycoris/modules/lokr.py``).
        """
        full = {name.removesuffix(".lokr_w2") for name in names if name.endswith(".lokr_w2")}
        whole = full & {name.removesuffix(".lokr_w1") for name in names if name.endswith(".lokr_w1")}
        return {one.key: float(one.rank) if one.key in whole else one.alpha for one in self.layers}

    def trains(self, part: str) -> bool:
        """Whether that part has an adapter."""
        return any(group.part == part for group in self.groups)


def model_of(parts: Parts, part: str) -> Any:
    """The module in which ``Layer.module`` is looked up."""
    if part == UNET:
        return parts.unet
    return next(encoder.inner for encoder in parts.text_encoders if encoder.facts.folder == part)


def layers_of(parts: Parts) -> dict[str, tuple[str, str]]:
    """Part and module of every layer that a LoRA file can name."""
    sgm = parts.family.sgm_names
    sites = names.unet_sites(parts.unet.config) + ([] if sgm else names.edge_sites())
    found = {names.unet_key(site, sgm): (UNET, site.module) for site in sites}
    for encoder in parts.text_encoders:
        for path in names.text_sites(len(encoder.inner.encoder.layers)):
            found[names.text_key(encoder.facts.prefix, path)] = (encoder.facts.folder, path)
    return found


def plan(parts: Parts, spec: TrainSpec, known: Mapping[str, tuple[int, float]] | None = None) -> Plan:
    """Plan the network that ``spec`` asks for.

    Args:
        parts: the base.
        spec: the configuration.
        known: rank and alpha by key, where they are taken from a file (``dim_from_weights``); others get none.

    Raises:
        ModelError: the base lacks a layer that its architecture promises.
        SpecError: ``network_args`` do not fit this base.
    """
    args = networkargs.read(spec, parts.family.sgm_names)
    groups: list[Group] = []
    if spec.train_unet:
        groups += _of_unet(parts, spec, args, known)
    for index, encoder in enumerate(parts.text_encoders):
        rate = spec.lr_of_text_encoder(index)
        if spec.network_train_unet_only or not rate or args.preset.startswith("unet-"):
            continue
        layers = [
            Layer(
                part=encoder.facts.folder,
                module=path,
                key=names.text_key(encoder.facts.prefix, path),
                rank=spec.network_dim,
                alpha=spec.network_alpha,
                algo=args.algo,
                dora=args.dora,
            )
            for path in names.text_sites(len(encoder.inner.encoder.layers))
            if args.preset != "attn-only" or ".self_attn." in path
        ]
        groups.append(Group(encoder.facts.folder, rate, tuple(_known(layers, known)), args.plus_text))
    found = Plan(tuple(group for group in groups if group.layers))
    if not found.groups:
        raise SpecError("network_args", "leave no layer to train.")
    _check(parts, found)
    return found


def _of_unet(
    parts: Parts, spec: TrainSpec, args: NetworkArgs, known: Mapping[str, tuple[int, float]] | None
) -> list[Group]:  # fmt: skip
    sgm = parts.family.sgm_names
    sites = names.unet_sites(parts.unet.config)
    if args.lycoris and not sgm:
        sites += names.edge_sites()  # LyCORIS finds these by names that SDXL's own code does not have
    by_rate: dict[float, list[Layer]] = {}
    for site in sites:
        block = (
            networkargs.block_of(site.sgm, site.module, sgm)
            if site.kind != "edge" and (args.block_dims or known is None)
            else 0
        )
        rank, alpha = _dimension(site, block, spec, args)
        key = names.unet_key(site, sgm)
        if known is not None:
            rank, alpha = known.get(key, (0, 0.0))
        if rank:
            factor = args.block_rates[block] if args.block_rates and known is None else 1.0
            by_rate.setdefault(factor, []).append(
                Layer(part=UNET, module=site.module, key=key, rank=rank, alpha=alpha, algo=args.algo, dora=args.dora)
            )
    return [Group(UNET, spec.lr_of_unet * factor, tuple(layers), args.plus_unet) for factor, layers in by_rate.items()]


def _dimension(site: names.Site, block: int, spec: TrainSpec, args: NetworkArgs) -> tuple[int, float]:
    """Rank and alpha of a layer of the UNet; rank 0 leaves it out."""
    if not _targeted(site, args):
        return 0, 0.0
    kernel = site.kind == "conv" or (site.kind == "edge" and "conv" in site.module)
    if args.block_dims:
        ranks, alphas = (
            (args.conv_block_dims, args.conv_block_alphas) if kernel else (args.block_dims, args.block_alphas)
        )
        return (ranks[block], alphas[block] or float(ranks[block])) if ranks else (0, 0.0)
    return (args.conv_dim, args.conv_alpha) if kernel else (spec.network_dim, spec.network_alpha)


def _targeted(site: names.Site, args: NetworkArgs) -> bool:
    if not args.lycoris:
        return site.kind == "attention" or args.convolutions
    if args.preset in ("attn-mlp", "unet-transformer-only"):
        return site.kind == "attention"
    if args.preset == "attn-only":
        return ".attn1." in site.module or ".attn2." in site.module
    if args.preset == "unet-convblock-only":
        return site.kind not in ("attention", "edge")
    if args.preset == "full-lin":
        return not site.module.endswith((".conv", "conv_in", "conv_out"))
    return True


def _known(layers: list[Layer], known: Mapping[str, tuple[int, float]] | None) -> list[Layer]:
    if known is None:
        return layers
    return [replace(one, rank=known[one.key][0], alpha=known[one.key][1]) for one in layers if one.key in known]


def _check(parts: Parts, found: Plan) -> None:
    """A library that moved a module would otherwise give a LoRA with a hole in it."""
    for group in found.groups:
        modules = dict(model_of(parts, group.part).named_modules())
        for layer in group.layers:
            if not isinstance(modules.get(layer.module), torch.nn.Linear | torch.nn.Conv2d):
                raise ModelError(f"the base's {group.part} has no layer {layer.module}, which {layer.key} belongs to")
