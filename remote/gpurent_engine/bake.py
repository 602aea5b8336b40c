"""Bake LoRAs into a base model in a single file.

Only weights that a LoRA touches are rewritten, in their own precision; every other tensor goes through bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from gpurent_engine import checkpoint, dialects, names
from gpurent_engine.families import detect, get, layout
from gpurent_engine.families.detect import NotTrainable, Shapes
from gpurent_engine.families.parts import ModelError
from gpurent_engine.lorafile import NotALora


def write(base: Path, loras: Sequence[tuple[Path, float]], out: Path, family: str | None = None) -> dict[str, int]:
    """Write ``base`` with LoRAs added, each at its strength.

    Args:
        base: a single ``.safetensors`` file.
        loras: files and strengths.
        out: where to.
        family: of the LoRAs, if they do not tell.

    Returns:
        How many layers of each part were changed.

    Raises:
        ModelError: the base is not a single file that is known.
        NotALora: a layer that the base does not have, or of another shape or kind.
    """
    if base.suffix.lower() != ".safetensors" or not base.is_file():
        raise ModelError(f"{base} is not a single .safetensors file; a LoRA is baked into such a file only")
    try:
        with safe_open(base, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ModelError(f"{base} is damaged: {error}") from error
    shapes = {name: tuple(one.shape) for name, one in tensors.items()}
    try:
        found = detect.single_file(shapes)
        places, config = _places(shapes, found)
    except NotTrainable as error:
        raise ModelError(f"{base} {error}") from error
    counts: dict[str, int] = {}
    for path, strength in loras:
        lora = dialects.read(path, get(family) if family else found.family, config)
        for key, layer in lora.file.layers.items():
            if key not in places:
                raise NotALora(f"{key} of {path.name} is not a layer of {base.name}")
            name, take = places[key]
            weight = tensors[name] if take == "all" else tensors[name].chunk(3)["qkv".index(take)]
            delta = layer.delta(weight.float())
            if delta.numel() != weight.numel():
                raise NotALora(f"{key} is {list(delta.shape)} in {path.name} and {list(weight.shape)} in {base.name}")
            # a third of a stacked tensor is a view of it
            weight.copy_((weight.float() + strength * delta.reshape(weight.shape)).to(weight.dtype))
            part = "unet" if key.startswith("lora_unet_") else key.split("_text_model_")[0]
            counts[part] = counts.get(part, 0) + 1
    said = ", ".join(f"{path.name} at {strength:g}" for path, strength in loras)
    header = {key: value for key, value in metadata.items() if "hash_sha256" not in key}
    header["modelspec.merged_from"] = f"{base.name}, {said}"
    checkpoint.write(out.parent, out.name, checkpoint.safetensors(tensors, header))
    return counts


def _places(shapes: Shapes, found: detect.Detected) -> tuple[dict[str, tuple[str, layout.Take]], dict[str, object]]:
    """For each LoRA key the tensor that it changes, and which third of it."""
    family = found.family
    places: dict[str, tuple[str, layout.Take]] = {}
    pooled = 0
    for facts, prefix in zip(family.text_encoders, detect.TEXT_PREFIXES[family.name], strict=True):
        below = layout.below(shapes, prefix)
        config = layout.text_config(below, facts)
        pooled = config["projection_dim"]
        moves = {move.target: move for move in layout.text_moves(config, below, facts)}
        for path in names.text_sites(config["num_hidden_layers"]):
            move = moves[f"{path}.weight"]
            places[names.text_key(facts.prefix, path)] = (prefix + move.source, move.take)
    below = layout.below(shapes, detect.UNET)
    config = layout.unet_config(below, family, pooled)
    moves = {move.target: move for move in layout.unet_moves(config, below)}
    for site in names.unet_sites(config):
        source = moves[f"{site.module}.weight"].source
        places[names.unet_key(site, family.sgm_names)] = (detect.UNET + source, "all")
    return places, config
