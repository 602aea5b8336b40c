"""What a training starts from besides its base: LoRAs merged into it, a LoRA to go on from, another VAE."""

from __future__ import annotations

from pathlib import Path

import torch

from gpurent_engine import dialects, networks
from gpurent_engine.families.parts import Parts
from gpurent_engine.lorafile import Layer, LoraFile, NotALora
from gpurent_engine.networks.network import Network
from gpurent_engine.networks.plan import Plan, layers_of, model_of
from gpurent_engine.spec import SpecError, TrainSpec


def located(data_dir: Path, text: str) -> Path:
    """Where a file that the configuration names is: absolute, or in the job's folder, beside the dataset."""
    path = Path(text)
    return path if path.is_absolute() or path.exists() else data_dir.parent / path


def _read(key: str, path: Path, parts: Parts) -> LoraFile:
    try:
        return dialects.read(path, parts.family, parts.unet.config).file
    except (NotALora, OSError) as error:
        raise SpecError(key, f"{path.name} cannot be used: {error}.") from error


@torch.no_grad()
def merge_base(parts: Parts, spec: TrainSpec, data_dir: Path) -> list[str]:
    """Add ``base_weights`` to the base, each at its strength; what is trained is learnt on top of them.

    Returns:
        Notes for the user: layers that the base does not have.

    Raises:
        SpecError: a file is not a LoRA of this family.
    """
    notes = []
    places = layers_of(parts)
    for index, text in enumerate(spec.base_weights):
        path = located(data_dir, text)
        strengths = spec.base_weights_multiplier
        strength = strengths[index] if index < len(strengths) else 1.0
        file = _read("base_weights", path, parts)
        lost = [key for key in file.layers if key not in places]
        for key, layer in file.layers.items():
            if key in places:
                part, module = places[key]
                weight = model_of(parts, part).get_submodule(module).weight
                weight.copy_((weight.float() + strength * _delta(layer, weight, path)).to(weight.dtype))
        if lost:
            notes.append(f"{path.name}: {len(lost)} layers are not in this base and are left out, such as {lost[0]}.")
    return notes


def _delta(layer: Layer, weight: torch.Tensor, path: Path) -> torch.Tensor:
    try:
        return layer.delta(weight.float()).to(weight.device).reshape(weight.shape)
    except (NotALora, RuntimeError) as error:
        raise SpecError("base_weights", f"{path.name}: {layer.key} does not fit this base: {error}.") from error


def ranks(parts: Parts, spec: TrainSpec, data_dir: Path) -> dict[str, tuple[int, float]] | None:
    """Rank and alpha of each layer of ``network_weights`` where ``dim_from_weights`` asks for them."""
    if not spec.dim_from_weights:
        return None
    file = _read("network_weights", located(data_dir, spec.network_weights), parts)
    found = {}
    for key, layer in file.layers.items():
        rank = layer.rank or spec.network_dim
        found[key] = (rank, float(rank) if layer.alpha is None else layer.alpha)
    return found


def go_on(network: Network, plan: Plan, parts: Parts, spec: TrainSpec, *, data_dir: Path) -> list[str]:
    """Put the values of ``network_weights`` into the network.

    Returns:
        Notes for the user.

    Raises:
        SpecError: the file is of another family, kind or rank.
    """
    path = located(data_dir, spec.network_weights)
    file = _read("network_weights", path, parts)
    tensors = {f"{key}.{name}": one for key, layer in file.layers.items() for name, one in layer.tensors.items()}
    try:
        lacking = networks.start_from(network, tensors)
    except ValueError as error:
        raise SpecError(
            "network_weights", f"{path.name} does not fit: {error}. dim_from_weights takes its ranks."
        ) from error
    if len(lacking) == len(plan.layers):
        raise SpecError("network_weights", f"{path.name} has no layer of this network.")
    notes = [f"{path.name} lacks {len(lacking)} layers, such as {lacking[0]}; they start fresh."] if lacking else []
    differing = [
        one.key for one in plan.layers if (found := file.layers.get(one.key)) and found.alpha not in (None, one.alpha)
    ]
    if differing:
        notes.append(f"{path.name} has another alpha than network_alpha; its strength changes at the start.")
    return notes
