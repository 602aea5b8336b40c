"""Putting a planned network into the base, starting it, and taking it out again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gpurent_engine import networkargs
from gpurent_engine.families.parts import Parts
from gpurent_engine.networkargs import NetworkArgs
from gpurent_engine.networks import lora, weights
from gpurent_engine.networks.network import Mode, Network
from gpurent_engine.networks.plan import Layer, Plan, model_of
from gpurent_engine.spec import TrainSpec


def attach(parts: Parts, plan: Plan, generator: torch.Generator, spec: TrainSpec | None = None) -> Network:
    """Freeze the base and add an adapter to each planned layer, its first values drawn from ``generator``.

    Without ``spec`` all layers are plain LoRAs. Those are peft's; everything else is ``weights.Adapted``.
    """
    args = NetworkArgs() if spec is None else networkargs.read(spec, parts.family.sgm_names)
    if args.plain:
        return lora.attach(parts, plan, generator)
    mode = Mode()
    parameters: dict[str, torch.nn.Parameter] = {}
    for group in plan.groups:
        model = model_of(parts, group.part)
        model.requires_grad_(False)
        for layer in group.layers:
            adapted = _wrapped(model.get_submodule(layer.module), layer, args, generator, mode=mode)
            _put(model, layer.module, adapted)
            for name, one in adapted.tensors().items():
                parameters[f"{layer.key}.{name}"] = one
    return Network(plan, parameters, mode)


def _wrapped(
    base: Any, layer: Layer, args: NetworkArgs, generator: torch.Generator, *, mode: Mode
) -> weights.Adapted:  # fmt: skip
    found = weights.shapes(layer, base.weight.shape, args)
    tensors = {name: weights.first(name, shape, generator, base.weight) for name, shape in found.items()}
    return weights.Adapted(
        base, layer, args, {name: one.to(base.weight.device) for name, one in tensors.items()}, mode=mode
    )  # fmt: skip


def _put(model: Any, path: str, module: Any) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def detach(parts: Parts, network: Network) -> None:
    """Put the base's own layers back in their places."""
    for layer in network.plan.layers:
        model = model_of(parts, layer.part)
        _put(model, layer.module, model.get_submodule(layer.module).get_base_layer())


@torch.no_grad()
def start_from(network: Network, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Begin with the values of a file instead of drawn ones.

    Returns:
        Keys of layers that the file does not have; they keep their drawn values.

    Raises:
        ValueError: a tensor has another shape in the file.
    """
    lacking = set()
    for name, one in network.parameters.items():
        value = tensors.get(name)
        if value is None:
            lacking.add(name.partition(".")[0])
            continue
        if value.shape != one.shape:
            raise ValueError(f"{name} is {list(value.shape)} in the file and {list(one.shape)} here")
        one.copy_(value.float())
    return sorted(lacking)


@torch.no_grad()
def limit_norms(network: Network, most: float) -> None:
    """Scale layers down whose change has a larger norm than ``most`` (kohya's ``scale_weight_norms``).

    The factor is shared between both matrices. A norm under ``most / 2`` counts as that, which changes nothing.
    """
    for layer in network.plan.layers:
        down = network.parameters.get(f"{layer.key}.{lora.DOWN}")
        up = network.parameters.get(f"{layer.key}.{lora.UP}")
        if down is None or up is None:
            continue
        norm = (up.flatten(1) @ down.flatten(1)).norm() * (layer.alpha / layer.rank)
        root = (norm.clamp(max=most) / norm.clamp(min=most / 2)).clamp(max=1.0).sqrt()
        root = torch.where(norm > most, root, torch.ones_like(root))
        down.mul_(root)
        up.mul_(root)
