"""Whether the fast step can do what a run asks for, and with which parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.optim import AdamW

from gpurent_engine.diffusion import Diffusion
from gpurent_engine.families.parts import Parts
from gpurent_engine.networks.lora import first_down
from gpurent_engine.networks.plan import Plan, model_of
from gpurent_engine.spec import TrainSpec
from gpurent_engine.step.build import UnsupportedError
from gpurent_engine.step.check import verify
from gpurent_engine.step.fast import FastStepper
from gpurent_engine.step.kernels import backend
from gpurent_engine.step.switches import Switches
from gpurent_engine.step.update import Hyper

OPTIMISERS = ("AdamW", "AdamW8bit")
"""The second in float32: exact, and a few hundred megabytes larger at most."""


@dataclass(frozen=True)
class Chosen:
    """``level`` says how the step runs, ``notes`` what the user may want to know, ``optimizer`` is its name in the
    metadata."""

    stepper: FastStepper
    level: str
    notes: tuple[str, ...]
    optimizer: str


def fast_stepper(
    parts: Parts, plan: Plan, diffusion: Diffusion, spec: TrainSpec, device: torch.device, *, wanted: str = ""
) -> Chosen:
    """The fast step for this run, its adapters filled with their first values.

    Args:
        parts: the base on its device, frozen, without adapters.
        plan: which layers get one.
        diffusion: noise schedule and prediction.
        spec: the configuration.
        device: where the base is.
        wanted: the level, or "" for the best that runs here.

    Raises:
        UnsupportedError: something in the base or the configuration is not one that the fast step knows.
    """
    if spec.optimizer_type not in OPTIMISERS:
        raise UnsupportedError(f"optimizer_type = {spec.optimizer_type}")
    notes = []
    missing = backend.missing() if device.type == "cuda" else ""
    if missing:
        notes.append(f"{missing}; the step runs on torch's operations, which takes longer.")
    if spec.optimizer_type == "AdamW8bit":
        notes.append("AdamW8bit is computed in float32: the same update without its rounding.")
    switches = Switches.parse(wanted) if wanted else Switches(kernels=not missing, stacked=not missing)
    if spec.gradient_checkpointing:
        switches = replace(switches, checkpoint="blocks")
    first = first_values(parts, plan, spec.seed)
    stepper = FastStepper(
        parts,
        plan,
        diffusion,
        Hyper(weight_decay=spec.weight_decay, max_norm=spec.max_grad_norm),
        switches=switches,
        clip_skip=spec.clip_skip,
        accumulate=spec.gradient_accumulation_steps > 1,
    )
    stepper.start(first)
    verify(stepper.core, parts, spec.clip_skip)
    name = f"{AdamW.__module__}.{AdamW.__qualname__}(weight_decay={spec.weight_decay})"
    return Chosen(stepper, str(switches), tuple(notes), name)


def first_values(parts: Parts, plan: Plan, seed: int) -> dict[str, torch.Tensor]:
    """What ``networks.lora.attach`` draws: ``down`` for each layer of the plan in order, ``up`` zero."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for layer in plan.layers:
        weight = model_of(parts, layer.part).get_submodule(layer.module).weight
        down = torch.Size((layer.rank, *weight.shape[1:]))
        up = torch.Size((weight.shape[0], layer.rank, *(1 for _ in weight.shape[2:])))
        found[f"{layer.key}.lora_down.weight"] = first_down(down, up, generator)
        found[f"{layer.key}.lora_up.weight"] = torch.zeros(up)
    return found
