"""LoRA by peft (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from gpurent_engine.families.parts import Parts
from gpurent_engine.networks.network import Network
from gpurent_engine.networks.plan import Layer, Plan, model_of

ADAPTER = "default"
DOWN, UP = "lora_down.weight", "lora_up.weight"


def attach(parts: Parts, plan: Plan, generator: torch.Generator) -> Network:
    """Freeze the base and add a LoRA to each planned layer, its first values drawn from ``generator`` (on the CPU)."""
    parameters: dict[str, torch.nn.Parameter] = {}
    for group in plan.groups:
        model = model_of(parts, group.part)
        model.requires_grad_(False)
        _inject(model, group.layers)
        for layer in group.layers:
            module = model.get_submodule(layer.module)
            for suffix, one in ((DOWN, module.lora_A), (UP, module.lora_B)):
                weight = one[ADAPTER].weight
                # Adapters in half precision lose small updates; autocast does the arithmetic in it all the same.
                weight.data = weight.data.float()
                parameters[f"{layer.key}.{suffix}"] = weight.requires_grad_(True)
    for layer in plan.layers:
        down, up = parameters[f"{layer.key}.{DOWN}"], parameters[f"{layer.key}.{UP}"]
        down.data.copy_(first_down(down.shape, up.shape, generator))
        up.data.zero_()
    return Network(plan, parameters)


def _inject(model: Any, layers: Sequence[Layer]) -> None:
    """One call for each rank and alpha: patterns by name cost a regular expression for every pair of layers."""
    from peft import LoraConfig, inject_adapter_in_model  # six seconds, which the fast step does without

    kinds: dict[tuple[int, float], list[str]] = {}
    for layer in layers:
        kinds.setdefault((layer.rank, layer.alpha), []).append(layer.module)
    for (rank, alpha), modules in kinds.items():
        # peft declares alpha an int; it only divides by the rank
        settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": modules}
        inject_adapter_in_model(LoraConfig(**settings, init_lora_weights=False), model, adapter_name=ADAPTER)


def first_down(down: torch.Size, up: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """First value of ``lora_down``, Kaiming-uniform(a=√5) as in kohya's trainer and peft; float32 on the CPU.

    peft draws for both layers when it makes them and once more for ``down``. The same draws in the same order give the
    same numbers as peft does after ``torch.manual_seed``, so that anyone can repeat a run with peft alone.
    """
    for shape in (down, up):
        torch.nn.init.kaiming_uniform_(torch.empty(shape, device="cpu"), a=math.sqrt(5), generator=generator)
    return torch.nn.init.kaiming_uniform_(torch.empty(down, device="cpu"), a=math.sqrt(5), generator=generator)
