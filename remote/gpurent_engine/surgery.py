"""Operations on LoRA files without training: merge, resize, extract.

Ranks are changed by singular value decomposition (Eckart & Young 1936: the nearest matrix of a rank in the Frobenius
norm). A LoRA is already a product of two thin matrices, so QR of both leaves an r × r matrix to decompose, and nothing
of the base's size is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from gpurent_engine import names
from gpurent_engine.families.parts import Parts
from gpurent_engine.lorafile import DOWN, UP, Layer, LoraFile, NotALora


@dataclass(frozen=True)
class Cut:
    """How much of a layer was kept: share of the squared norm, and the new rank."""

    key: str
    rank: int
    kept: float


def merge(files: Sequence[tuple[LoraFile, float]]) -> LoraFile:
    """One LoRA that does what several do together, each at its strength; ranks add up, nothing is lost.

    Raises:
        NotALora: a layer that is not a plain LoRA, or layers of different shapes under one key.
    """
    keys = list(dict.fromkeys(key for file, _ in files for key in file.layers))
    merged: dict[str, Layer] = {}
    for key in keys:
        ups: list[torch.Tensor] = []
        downs: list[torch.Tensor] = []
        shape = torch.Size()
        for file, strength in files:
            if key not in file.layers:
                continue
            layer = _plain(file.layers[key])
            up, down = layer.factors()
            if downs and down.shape[1] != downs[0].shape[1]:
                raise NotALora(f"{key} has different shapes in the files: they belong to different model families")
            ups.append(up * strength)
            downs.append(down)
            shape = layer.tensors[DOWN].shape[1:]
        merged[key] = _layer(key, torch.cat(ups, 1), torch.cat(downs, 0), shape)
    return LoraFile(merged, {})


def resize(file: LoraFile, rank: int, energy: float = 1.0) -> tuple[LoraFile, list[Cut]]:
    """Lower the rank of every layer.

    Args:
        file: a LoRA.
        rank: no layer keeps more.
        energy: keep no more than it takes for this share of the squared norm, between 0 and 1.

    Raises:
        NotALora: a layer that is not a plain LoRA.
    """
    layers, cuts = {}, []
    for key, layer in file.layers.items():
        up, down = _plain(layer).factors()
        left, values, right = thin_svd(up, down)
        keep = min(rank, _enough(values, energy))
        kept = float(values[:keep].square().sum() / values.square().sum().clamp(min=1e-30))
        root = values[:keep].sqrt()
        layers[key] = _layer(key, left[:, :keep] * root, root[:, None] * right[:keep], layer.tensors[DOWN].shape[1:])
        cuts.append(Cut(key, keep, kept))
    return LoraFile(layers, dict(file.metadata)), cuts


def thin_svd(up: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular value decomposition of ``up @ down``: ``U [out, r]``, values ``[r]``, ``V' [r, in]``."""
    left, left_r = torch.linalg.qr(up.double())
    right, right_r = torch.linalg.qr(down.double().T)
    u, values, v = torch.linalg.svd(left_r @ right_r.T)
    return (left @ u).float(), values.float(), (v @ right.T).float()


def _enough(values: torch.Tensor, energy: float) -> int:
    if energy >= 1.0:
        return len(values)
    share = values.square().cumsum(0) / values.square().sum().clamp(min=1e-30)
    return int((share < energy).sum()) + 1


@torch.no_grad()
def extract(
    tuned: Parts, base: Parts, *, rank: int, conv_rank: int = 0, least: float = 1e-6,
    on_layer: Callable[[str], None] = lambda _key: None,
) -> tuple[LoraFile, list[Cut]]:  # fmt: skip
    """A LoRA that turns ``base`` into ``tuned`` as nearly as its rank allows.

    Args:
        tuned: a fine-tuned model.
        base: the model that it was tuned from.
        rank: of linear layers and 1×1 convolutions.
        conv_rank: of 3×3 convolutions; 0 leaves them out.
        least: layers that changed less, relative to the base, are left out.
        on_layer: called for each layer that is looked at.

    Raises:
        NotALora: the two are of different architectures, or nothing changed.
    """
    family = base.family
    layers: dict[str, Layer] = {}
    cuts = []
    for key, mine, its in _pairs(tuned, base):
        on_layer(key)
        if mine.shape != its.shape:
            raise NotALora(f"{key} has the shape {list(mine.shape)} in one model and {list(its.shape)} in the other")
        keep = conv_rank if mine.dim() == 4 and mine.shape[-1] > 1 else rank
        change = (mine.float() - its.float()).flatten(1)
        if not keep or float(change.norm()) <= least * float(its.float().norm()):
            continue
        keep = min(keep, *change.shape)
        u, values, v = torch.svd_lowrank(change, q=min(keep + 16, *change.shape), niter=6)
        root = values[:keep].sqrt()
        layers[key] = _layer(key, u[:, :keep] * root, root[:, None] * v[:, :keep].T, mine.shape[1:])
        cuts.append(Cut(key, keep, float(values[:keep].square().sum() / change.square().sum())))
    if not layers:
        raise NotALora(f"the two {family.title} models are equal in every layer that a LoRA can change")
    return LoraFile(layers, {}), cuts


def _pairs(tuned: Parts, base: Parts) -> Iterable[tuple[str, torch.Tensor, torch.Tensor]]:
    family = base.family
    if tuned.family is not family:
        raise NotALora(f"one model is {tuned.family.title}, the other {family.title}")
    for site in names.unet_sites(base.unet.config):
        pair = [parts.unet.get_submodule(site.module).weight for parts in (tuned, base)]
        yield names.unet_key(site, family.sgm_names), pair[0], pair[1]
    for mine, its in zip(tuned.text_encoders, base.text_encoders, strict=True):
        for path in names.text_sites(len(its.inner.encoder.layers)):
            key = names.text_key(its.facts.prefix, path)
            yield key, mine.inner.get_submodule(path).weight, its.inner.get_submodule(path).weight


def _plain(layer: Layer) -> Layer:
    if layer.kind != "lora" or set(layer.tensors) - {DOWN, UP}:
        raise NotALora(f"{layer.key} is not a plain LoRA layer ({', '.join(sorted(layer.tensors))})")
    return layer


def _layer(key: str, up: torch.Tensor, down: torch.Tensor, shape: torch.Size) -> Layer:
    """Factors in kohya's shapes: down ``[r, in, kh, kw]``, up ``[out, r, 1, 1]``; alpha = rank, the scale is inside."""
    rank = down.shape[0]
    ones = (1,) * (len(shape) - 1)
    tensors = {DOWN: down.reshape(rank, *shape).contiguous(), UP: up.reshape(up.shape[0], rank, *ones).contiguous()}
    return Layer(key, tensors, float(rank))
