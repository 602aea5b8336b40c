"""The spellings of a LoRA file: kohya's keys, as we write them, and those that other programs write.

* kohya's trainer: ``lora_unet_…`` with Stability's block names for SDXL, diffusers' for Stable Diffusion 1.x and 2.x;
* kohya's names with diffusers' block names for SDXL (what diffusers' own converter writes);
* diffusers and peft: ``unet.down_blocks.0.….lora_A.weight``, with the scale in the header or nowhere;
* diffusers before peft: ``….lora.down.weight`` and ``….processor.to_q_lora.down.weight``;
* text encoders without the level ``text_model``: written by programs that took names from transformers 5.6.

Sources: huggingface/diffusers ``loaders/lora_conversion_utils.py`` and ``utils/state_dict_utils.py``;
kohya-ss/sd-scripts ``networks/lora.py``. The table is built from ``names``, nothing is guessed from a key's spelling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpurent_engine import lorafile, names
from gpurent_engine.families import FAMILIES, SD2, SD15, SDXL, Family
from gpurent_engine.lorafile import DOWN, UP, LoraFile, NotALora

_SUFFIXES = (
    (re.compile(r"\.lora_A(\.default)?\.weight$"), DOWN), (re.compile(r"\.lora_B(\.default)?\.weight$"), UP),
    (re.compile(r"\.lora(_linear_layer)?\.down\.weight$"), DOWN),
    (re.compile(r"\.lora(_linear_layer)?\.up\.weight$"), UP),
    (re.compile(r"\.processor\.(to_(?:q|k|v|out))_lora\.down\.weight$"), DOWN),
    (re.compile(r"\.processor\.(to_(?:q|k|v|out))_lora\.up\.weight$"), UP),
    (re.compile(r"\.alpha$"), lorafile.ALPHA),
)  # fmt: skip
_PREFIXES = ("base_model.model.", "module.")


@dataclass(frozen=True)
class Spelled:
    """A file as read: in kohya's keys, whatever it was written in."""

    file: LoraFile
    family: Family
    dialect: str
    """``kohya``, ``kohya with diffusers' block names``, or ``diffusers``."""
    unknown: tuple[str, ...]
    """Keys that are no layer of the family."""


def read(path: Path, family: Family | None = None, config: Mapping[str, Any] | None = None) -> Spelled:
    """Read a LoRA file of any spelling.

    Args:
        path: a ``.safetensors`` file.
        family: None tells it from the file.
        config: of the base's UNet, for one of unusual size.

    Raises:
        NotALora: no safetensors file, or none of its tensors is a layer of a family that is known.
        OSError: it cannot be read.
    """
    tensors, metadata = lorafile.read_tensors(path)
    kind = family or family_of(tensors, metadata)
    table = spellings(kind, config)
    flat = any(name.startswith(("lora_unet_", "lora_te", "lycoris_")) for name in tensors)
    renamed = _kohya(tensors, table) if flat else _diffusers(tensors, metadata, table)
    file = lorafile.collect(renamed, metadata)
    known = set(table.values())
    unknown = tuple(sorted({*(key for key in file.layers if key not in known), *file.rest}))
    if not set(file.layers) & known:
        raise NotALora(f"{path.name} holds no layer of {kind.title}, such as {next(iter(tensors), 'nothing')}")
    dialect = "diffusers"
    if flat:
        native = {name.partition(".")[0] for name in tensors} & known
        dialect = "kohya" if native else "kohya with diffusers' block names"
    return Spelled(file, kind, dialect, unknown)


def family_of(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Family:
    """Tell the family: by the header where it says so, else by the width of the text that the UNet attends to.

    Raises:
        NotALora: neither says anything.
    """
    version = metadata.get("ss_base_model_version", "")
    if version.startswith("sdxl_"):
        return SDXL
    if metadata.get("ss_v2") == "True":
        return SD2
    widths = {family.context_width: family for family in FAMILIES.values()}
    for name, one in tensors.items():
        down = name.endswith((DOWN, "lora_A.weight", "lora_A.default.weight", "down.weight"))
        if down and re.search(r"attn2[._](processor\.)?to_k", name) and one.shape[1] in widths:
            return widths[one.shape[1]]
    if any(
        name.startswith(("lora_te1_", "lora_te2_", "text_encoder_2.")) or "input_blocks" in name for name in tensors
    ):
        return SDXL
    if version.startswith("sd_v1") or any(name.startswith("lora_te_") for name in tensors):
        return SD15
    raise NotALora("nothing in the file tells which model family it belongs to; name it with --family")


def spellings(family: Family, config: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Every spelling of every layer, without its suffix, and the key that we write for it."""
    table: dict[str, str] = {}
    edges = [] if family.sgm_names else names.edge_sites()
    for site in [*names.unet_sites(config or family.unet), *edges]:
        key = names.unet_key(site, family.sgm_names)
        for spelled in (key, names.unet_key(site, sgm=False), names.unet_key(site, sgm=True), f"unet.{site.module}"):
            table[spelled] = key
    for facts in family.text_encoders:
        for path in names.text_sites(facts.layers):
            key = names.text_key(facts.prefix, path)
            flat = path.replace(".", "_")
            table |= dict.fromkeys((key, f"{facts.prefix}_{flat}"), key)
            table |= dict.fromkeys((f"{facts.folder}.{path}", f"{facts.folder}.text_model.{path}"), key)
            if facts.prefix == "lora_te":  # diffusers' converter numbers the only encoder as well
                table[f"lora_te1_text_model_{flat}"] = key
    return table


def diffusers_names(family: Family, config: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Our keys and the module paths that diffusers and peft have for them."""
    found = {
        names.unet_key(site, family.sgm_names): f"unet.{site.module}"
        for site in names.unet_sites(config or family.unet)
    }
    for facts in family.text_encoders:
        for path in names.text_sites(facts.layers):
            found[names.text_key(facts.prefix, path)] = f"{facts.folder}.text_model.{path}"
    return found


def _kohya(tensors: Mapping[str, torch.Tensor], table: Mapping[str, str]) -> dict[str, torch.Tensor]:
    found = {}
    for name, one in tensors.items():
        key, dot, suffix = name.partition(".")
        found[table.get(key, key) + dot + suffix] = one
    return found


def _diffusers(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], table: Mapping[str, str]
) -> dict[str, torch.Tensor]:  # fmt: skip
    found: dict[str, torch.Tensor] = {}
    for name, one in tensors.items():
        stem, suffix = _split(name)
        key = table.get(stem)
        found[f"{key}.{suffix}" if key and suffix else name] = one
    return found | _alphas(found, metadata, table)


def _split(name: str) -> tuple[str, str]:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for pattern, suffix in _SUFFIXES:
        match = pattern.search(name)
        if match:
            stem = name[: match.start()]
            if match.groups() and match[1] and match[1].startswith("to_"):
                stem += f".{match[1]}" + (".0" if match[1] == "to_out" else "")
            return stem, suffix
    return name, ""


def _alphas(
    found: Mapping[str, torch.Tensor], metadata: Mapping[str, str], table: Mapping[str, str]
) -> dict[str, torch.Tensor]:  # fmt: skip
    """peft's alpha from the header, where diffusers puts it since 0.34; absent, the scale is 1."""
    settings = lorafile.json_value(metadata, "lora_adapter_metadata")
    if not isinstance(settings, dict):
        return {}
    alphas: dict[str, torch.Tensor] = {}
    by_key: dict[str, str] = {}
    for spelled, key in table.items():
        if spelled.partition(".")[0] in ("unet", "text_encoder", "text_encoder_2"):
            by_key.setdefault(key, spelled)
    for name in found:
        key, _, suffix = name.partition(".")
        if suffix != DOWN or f"{key}.alpha" in found:
            continue
        part, _, module = by_key[key].partition(".")
        alpha = settings.get(f"{part}.lora_alpha")
        for pattern, value in (settings.get(f"{part}.alpha_pattern") or {}).items():
            if module.endswith(str(pattern)):
                alpha = value
        if isinstance(alpha, int | float):
            alphas[f"{key}.alpha"] = torch.tensor(float(alpha))
    return alphas


def to_diffusers(file: LoraFile, family: Family, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header as diffusers and peft have them; the scale goes into ``lora_B``, so that nothing is lost.

    Raises:
        NotALora: naming a layer that this form cannot hold.
    """
    paths = diffusers_names(family)
    tensors: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    for key, layer in file.layers.items():
        if layer.kind != "lora" or set(layer.tensors) - {DOWN, UP}:
            raise NotALora(f"{key} is not a plain LoRA layer ({layer.kind}), and diffusers' form holds no other")
        if key not in paths:
            raise NotALora(f"{key} is not a layer of {family.title}")
        tensors[f"{paths[key]}.lora_A.weight"] = layer.tensors[DOWN].to(dtype).contiguous()
        tensors[f"{paths[key]}.lora_B.weight"] = (layer.tensors[UP].float() * layer.scale).to(dtype).contiguous()
        part, _, module = paths[key].partition(".")
        settings.setdefault(f"{part}.r", layer.rank)
        settings.setdefault(f"{part}.lora_alpha", layer.rank)
        settings.setdefault(f"{part}.target_modules", []).append(module)
        if layer.rank != settings[f"{part}.r"]:
            settings.setdefault(f"{part}.rank_pattern", {})[module] = layer.rank
            settings.setdefault(f"{part}.alpha_pattern", {})[module] = layer.rank
    return tensors, {"format": "pt", "lora_adapter_metadata": json.dumps(settings, sort_keys=True)}
