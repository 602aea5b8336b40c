"""Whether the fast step can do what a run asks for, and with which parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.optim import AdamW

from gpurent_engine import limits
from gpurent_engine.diffusion import Diffusion
from gpurent_engine.distributed import ALONE, Group
from gpurent_engine.families.parts import Parts
from gpurent_engine.networks.lora import first_down
from gpurent_engine.networks.plan import Plan, model_of
from gpurent_engine.spec import TrainSpec
from gpurent_engine.step.build import UnsupportedError
from gpurent_engine.step.check import verify
from gpurent_engine.step.fast import FastStepper
from gpurent_engine.step.heeded import unheeded
from gpurent_engine.step.kernels import backend
from gpurent_engine.step.switches import Switches
from gpurent_engine.step.update import Hyper


@dataclass(frozen=True)
class Chosen:
    """``level`` says how the step runs, ``notes`` what the user may want to know, ``optimizer`` is its name in the
    metadata."""

    stepper: FastStepper
    level: str
    notes: tuple[str, ...]
    optimizer: str


def fast_stepper(
    parts: Parts, plan: Plan, diffusion: Diffusion, spec: TrainSpec, device: torch.device, *, wanted: str = "",
    group: Group = ALONE, adapters: int = 1,
) -> Chosen:  # fmt: skip
    """The fast step for this run, its adapters filled with their first values.

    Args:
        parts: the base on its device, frozen, without adapters.
        plan: which layers get one.
        diffusion: noise schedule and prediction.
        spec: the configuration.
        device: where the base is.
        wanted: the level, or "" for the best that runs here.
        group: the processes that share each step.
        adapters: how many are trained at once; each starts with the same values.

    Raises:
        UnsupportedError: something in the base or the configuration is not one that the fast step knows.
    """
    refuse_unknown(spec, plan)
    hyper = settings(spec)
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
        hyper,
        switches=switches,
        clip_skip=spec.clip_skip,
        accumulate=spec.gradient_accumulation_steps > 1 or group.size > 1,
        adapters=adapters,
    )
    if group.size > 1:
        stepper.core.reduce = group.sum_flat
    for position in range(adapters):
        stepper.of(position).start(first)
    verify(stepper.core, parts, spec.clip_skip)
    return Chosen(stepper, str(switches), tuple(notes), optimizer_name(spec))


def optimizer_name(spec: TrainSpec) -> str:
    """As the metadata names the fast step's optimiser; raises as ``settings``."""
    return f"{AdamW.__module__}.{AdamW.__qualname__}(weight_decay={settings(spec).weight_decay})"


def settings(spec: TrainSpec) -> Hyper:
    """AdamW's settings, from the configuration and its ``optimizer_args``.

    Raises:
        UnsupportedError: an argument is not one of ``weight_decay``, ``betas``, ``eps``.
    """
    given = limits.literals("optimizer_args", spec.optimizer_args)
    hyper = Hyper(weight_decay=spec.weight_decay, max_norm=spec.max_grad_norm)
    for name, value in given.items():
        if name == "betas" and isinstance(value, list | tuple) and len(value) == 2:
            hyper = replace(hyper, betas=(float(value[0]), float(value[1])))
        elif name == "weight_decay" and isinstance(value, int | float):
            hyper = replace(hyper, weight_decay=float(value))
        elif name == "eps" and isinstance(value, int | float):
            hyper = replace(hyper, eps=float(value))
        else:
            raise UnsupportedError(f"optimizer_args has {name}={value}")
    return hyper


def refuse_unknown(spec: TrainSpec, plan: Plan) -> None:
    """Refuse what the configuration or the plan of its adapters asks for and the step does not do.

    Raises:
        UnsupportedError: naming the key.
    """
    reason = unheeded(spec, sdxl=_sdxl(plan))
    if reason:
        raise UnsupportedError(reason)
    for layer in plan.layers:
        if not layer.plain:
            raise UnsupportedError(
                f"there is a {layer.algo} adapter{' with DoRA' if layer.dora else ''} on {layer.module}"
            )


def _sdxl(plan: Plan) -> bool:
    return any(layer.key.startswith("lora_unet_input_blocks") for layer in plan.layers)


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
