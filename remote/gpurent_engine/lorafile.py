"""LoRA files as they lie on disk: read, understood layer by layer, without a base model.

A layer is a key with the tensors that share it: ``lora_unet_…_to_q`` with ``.lora_down.weight``, ``.lora_up.weight``,
``.alpha`` (kohya-ss/sd-scripts), or the tensors of LyCORIS' kinds (KohakuBlueleaf/LyCORIS ``lycoris/modules``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from gpurent_engine.deltas import change, lengths

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
KINDS: dict[str, tuple[str, ...]] = {
    "lora": (DOWN, UP),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "lokr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "full": ("diff",),
}
"""Kinds of layers, and the tensors that tell them."""


class NotALora(Exception):
    """The file is not a LoRA, or is damaged; the message says which."""


@dataclass(frozen=True)
class Layer:
    """One adapted layer: its tensors by suffix, on the CPU, and its alpha (None where the file has none)."""

    key: str
    tensors: Mapping[str, torch.Tensor]
    alpha: float | None = None

    @property
    def kind(self) -> str:
        """``lora``, ``loha``, ``lokr``, ``full``, or ``unknown``."""
        return next((kind for kind, marks in KINDS.items() if any(one in self.tensors for one in marks)), "unknown")

    @property
    def rank(self) -> int:
        """Of the factors; 0 where there are none."""
        marks = (DOWN, "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
        return next((int(self.tensors[one].shape[0]) for one in marks if one in self.tensors), 0)

    @property
    def plain(self) -> bool:
        """A LoRA and nothing else."""
        return self.kind == "lora" and not set(self.tensors) - {DOWN, UP}

    @property
    def scale(self) -> float:
        """alpha ÷ rank. A file without alpha means 1 to ComfyUI and diffusers, and alpha = rank to kohya's trainer."""
        return 1.0 if self.alpha is None or not self.rank else self.alpha / self.rank

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Matrices ``up`` ``[out, r]`` and ``down`` ``[r, in × kernel]`` in float32, the scale inside ``up``."""
        down = self.tensors[DOWN].float().flatten(1)
        up = self.tensors[UP].float().flatten(1)
        return up * self.scale, down

    def delta(self, base: torch.Tensor | None = None) -> torch.Tensor:
        """What is added to the base's weight, float32, in its shape ``[out, in]`` or ``[out, in, kh, kw]``.

        Args:
            base: the weight itself, float32; LoHa and LoKr take its shape, DoRA its values.

        Raises:
            NotALora: a kind that this engine cannot put together, or one that needs ``base``.
        """
        if self.kind == "full":
            return self.tensors["diff"].float()
        if self.plain:
            up, down = self.factors()
            shape = self.tensors[DOWN].shape
            return (up @ down).reshape(up.shape[0], *shape[1:])
        if self.kind == "unknown" or base is None or set(self.tensors) & {"lokr_t2", "hada_t1", "lora_mid.weight"}:
            raise NotALora(f"{self.key} is a {self.kind} layer, which cannot be put together here")
        parts = {name: one.float().to(base.device) for name, one in self.tensors.items()}
        found = change(parts, base.shape, self.scale)
        if "dora_scale" not in parts:
            return found
        length = parts["dora_scale"]
        whole = base.float() + found
        norm = lengths(whole, on_output=length.shape[0] != 1) + torch.finfo(torch.float32).eps
        return whole * (length / norm) - base.float()

    def norm(self, base: torch.Tensor | None = None) -> float:
        """Frobenius norm of ``delta``, by way of two r × r matrices where it has two factors."""
        if not self.plain:
            return float(self.delta(base).norm())
        up, down = (one.double() for one in self.factors())
        return float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt())


@dataclass
class LoraFile:
    """A LoRA in kohya's keys. ``rest`` are tensors that belong to no layer."""

    layers: dict[str, Layer]
    metadata: dict[str, str] = field(default_factory=dict)
    rest: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of most weights."""
        found = [one.dtype for layer in self.layers.values() for one in layer.tensors.values()]
        return max(set(found), key=found.count) if found else torch.float32

    def not_finite(self) -> list[str]:
        """Names of tensors with NaN or infinity."""
        return [
            f"{layer.key}.{suffix}"
            for layer in self.layers.values()
            for suffix, one in layer.tensors.items()
            if one.is_floating_point() and not bool(torch.isfinite(one).all())
        ]

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """What to write: every tensor by its full name, alpha always."""
        found: dict[str, torch.Tensor] = {}
        kind = dtype or self.dtype
        for layer in self.layers.values():
            found |= {f"{layer.key}.{suffix}": one.to(kind).contiguous() for suffix, one in layer.tensors.items()}
            alpha = layer.alpha if layer.alpha is not None else float(layer.rank)
            if layer.rank or layer.alpha is not None:
                found[f"{layer.key}.{ALPHA}"] = torch.tensor(alpha, dtype=kind)
        return found


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata.

    Raises:
        NotALora: it is not a safetensors file, or is damaged.
        OSError: it cannot be read.
    """
    if path.suffix.lower() != ".safetensors":
        raise NotALora(f"{path.name} is not a .safetensors file; a pickle (.pt, .ckpt) can run code and is not opened")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise NotALora(f"{path.name} is damaged or no safetensors file: {error}") from error


def collect(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> LoraFile:
    """Sort tensors with kohya's names into layers."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    alphas: dict[str, float] = {}
    rest: dict[str, torch.Tensor] = {}
    for name, one in tensors.items():
        key, _, suffix = name.partition(".")
        if not key.startswith(("lora_unet_", "lora_te", "lycoris_")):
            rest[name] = one
        elif suffix == ALPHA:
            alphas[key] = float(one)
        else:
            layers.setdefault(key, {})[suffix] = one
    rest |= {f"{key}.{ALPHA}": torch.tensor(value) for key, value in alphas.items() if key not in layers}
    found = {key: Layer(key, parts, alphas.get(key)) for key, parts in layers.items()}
    return LoraFile(found, dict(metadata), rest)


def network_settings(file: LoraFile) -> tuple[list[int], list[float]]:
    """Ranks and alphas that occur, each once, the most frequent first."""
    ranks = [layer.rank for layer in file.layers.values() if layer.rank]
    alphas = [layer.alpha if layer.alpha is not None else float(layer.rank) for layer in file.layers.values()]
    return _by_frequency(ranks), _by_frequency(alphas)


def _by_frequency(values: Iterable[float]) -> list:  # type: ignore[type-arg]
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return sorted(counts, key=lambda value: (-counts[value], value))


def json_value(metadata: Mapping[str, str], key: str) -> object:
    """A metadata entry that is JSON; None where it is absent or is not."""
    try:
        return json.loads(metadata[key])
    except (KeyError, ValueError):
        return None
