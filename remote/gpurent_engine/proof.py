"""Proof after training: the file is read again from disk and shown to do something to the base.

What users report as "the LoRA has no effect" is a file with zeros, NaN, wrong names or the wrong strength. Each is
looked for here, while the machine that could tell is still rented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gpurent_engine import lorafile, sampling
from gpurent_engine.diffusion import Diffusion
from gpurent_engine.families.parts import Parts
from gpurent_engine.lorafile import LoraFile
from gpurent_engine.networks.plan import Plan, model_of

SEED = 1234
PICTURE_STEPS = 12
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Of a tensor in the file against the one that was trained, relative to its largest number."""


@dataclass(frozen=True)
class PartProof:
    """One part of the base: how many layers the file has for it, and how large what they add is."""

    layers: int
    norm: float
    """Root of the summed squares over all layers."""
    relative: float
    """``norm`` ÷ the norm of the base's weights in the same layers."""
    zero_layers: int
    """Layers that add nothing."""


@dataclass(frozen=True)
class Proof:
    """What was found; ``problems`` is empty for a sound file."""

    path: str
    parts: dict[str, PartProof]
    problems: tuple[str, ...]
    prediction_change: float | None = None
    """Of what the UNet predicts at half the noise, relative."""
    image_change: float | None = None
    """Mean absolute difference of one drawn picture with the LoRA and without, 0 to 255."""
    prompt: str = ""

    @property
    def nothing(self) -> bool:
        """Whether the file changes nothing at all."""
        return bool(self.parts) and all(one.zero_layers == one.layers for one in self.parts.values())

    def fields(self) -> dict[str, Any]:
        """For the event."""
        return {**asdict(self), "problems": list(self.problems), "ok": not self.problems}


def prove(
    parts: Parts,
    plan: Plan,
    process: Diffusion,
    path: Path,
    *,
    trained: Mapping[str, torch.Tensor],
    prompt: str,
    side: int,
    clip_skip: int | None,
    draw: bool,
) -> Proof:
    """Read ``path`` and compare it with the plan, with what was trained, and with the base.

    Args:
        parts: the base without adapters; its weights are changed when ``draw`` is set.
        plan: names, ranks and places.
        process: of the base.
        path: the file.
        trained: tensors in memory by their names in the file.
        prompt: caption to draw.
        side: pixels of the picture.
        clip_skip: as in training.
        draw: predict and draw with the LoRA and without. Takes a few seconds.
    """
    try:
        tensors, metadata = lorafile.read_tensors(path)
    except (lorafile.NotALora, OSError) as error:
        return Proof(path.name, {}, (f"The file cannot be read again: {error}",))
    file = lorafile.collect(tensors, metadata)
    problems = [*_names(file, plan), *_numbers(file, trained)]
    found = {group.part: _part(file, parts, plan, group.part) for group in plan.groups} if not problems else {}
    for part, one in found.items():
        if not one.norm:
            problems.append(f"The LoRA adds nothing to the {part}: all of its layers are zero.")
    if problems or not draw:
        return Proof(path.name, found, tuple(problems))
    before = _look(parts, process, prompt, side, clip_skip=clip_skip)
    merge(file, parts, plan)
    after = _look(parts, process, prompt, side, clip_skip=clip_skip)
    change = float((after[0] - before[0]).norm() / before[0].norm())
    difference = float((after[1] - before[1]).abs().mean()) * 255
    if not change > 0:
        problems.append("The base predicts the same with the LoRA as without.")
    return Proof(
        path=path.name,
        parts=found,
        problems=tuple(problems),
        prediction_change=change,
        image_change=difference,
        prompt=prompt,
    )


def _names(file: LoraFile, plan: Plan) -> list[str]:
    """The file's layers against the table's."""
    wanted = {layer.key for layer in plan.layers}
    missing, extra = sorted(wanted - set(file.layers)), sorted(set(file.layers) - wanted)
    problems = [f"The file lacks {len(missing)} layers, such as {missing[0]}."] if missing else []
    problems += [f"The file has {len(extra)} layers that no program knows, such as {extra[0]}."] if extra else []
    problems += [f"The file has tensors that belong to no layer, such as {next(iter(file.rest))}."] if file.rest else []
    bare = [key for key, layer in file.layers.items() if layer.alpha is None]
    return problems + ([f"{len(bare)} layers have no alpha, such as {bare[0]}."] if bare else [])


def _numbers(file: LoraFile, trained: Mapping[str, torch.Tensor]) -> list[str]:
    bad = file.not_finite()
    if bad:
        return [f"{len(bad)} tensors are not finite, such as {bad[0]}."]
    for layer in file.layers.values():
        for suffix, one in layer.tensors.items():
            memory = trained.get(f"{layer.key}.{suffix}")
            if memory is None:
                continue
            memory = memory.detach().float().cpu()
            scale = float(memory.abs().max())
            # numbers below the smallest one of half precision become zero: measured against the largest
            if float((one.float() - memory).abs().max()) > TOLERANCE[one.dtype] * scale + 1e-7:
                return [f"{layer.key}.{suffix} in the file is not what was trained."]
    return []


def _part(file: LoraFile, parts: Parts, plan: Plan, part: str) -> PartProof:
    norms = []
    base = 0.0
    for layer in plan.layers:
        if layer.part == part:
            weight = model_of(parts, part).get_submodule(layer.module).weight.detach().float()
            norms.append(file.layers[layer.key].norm(weight))
            base += float(weight.norm()) ** 2
    norm = sum(one**2 for one in norms) ** 0.5
    return PartProof(len(norms), norm, norm / max(1e-12, base**0.5), sum(not one for one in norms))


@torch.no_grad()
def merge(file: LoraFile, parts: Parts, plan: Plan, strength: float = 1.0) -> None:
    """Add the file's LoRA to the base's weights."""
    for layer in plan.layers:
        weight = model_of(parts, layer.part).get_submodule(layer.module).weight
        delta = file.layers[layer.key].delta(weight.float()).to(weight.device).reshape(weight.shape)
        weight.copy_((weight.float() + strength * delta).to(weight.dtype))


@torch.no_grad()
def _look(
    parts: Parts, process: Diffusion, prompt: str, side: int, *, clip_skip: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction and a picture, both from fixed noise."""
    parts.vae.to(parts.unet.device)
    device, dtype, edge = parts.unet.device, parts.unet.dtype, side // parts.vae_factor
    noise = torch.randn((1, 4, edge, edge), generator=torch.Generator().manual_seed(SEED)).to(device, dtype)
    hidden, extra = sampling.condition(parts, [prompt], side, clip_skip)
    at = torch.tensor([process.steps // 2], device=device)
    said: torch.Tensor = parts.unet(noise, at, hidden, added_cond_kwargs=extra).sample.float()
    return said, sampling.draw(parts, process, prompt, side=side, seed=SEED, steps=PICTURE_STEPS, clip_skip=clip_skip)
