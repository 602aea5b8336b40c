"""Put LoRA layers where kohya's trainer puts them, with peft.

Targets (kohya-ss/sd-scripts ``networks/lora.py``): every linear layer and 1×1 convolution inside the UNet's
Transformer2DModel blocks; every linear layer of the text encoder's attention and MLP.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model

_UNET = re.compile(
    r"(down_blocks|up_blocks|mid_block)\..*attentions\.\d+\."
    r"(proj_in|proj_out|transformer_blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)))"
)
_TEXT = re.compile(r"(text_model\.)?encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])")
ADAPTER = "default"


def targets(model: Any, pattern: re.Pattern[str]) -> list[str]:
    """Full names of the layers of ``model`` that get a LoRA, in module order."""
    return [
        name
        for name, module in model.named_modules()
        if pattern.fullmatch(name) and isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]


def unet_targets(unet: Any) -> list[str]:
    """Targets in the UNet: 192 for Stable Diffusion 1.5."""
    return targets(unet, _UNET)


def text_targets(text_encoder: Any) -> list[str]:
    """Targets in the text encoder: 72 for Stable Diffusion 1.5."""
    return targets(text_encoder, _TEXT)


def inject(model: Any, names: list[str], rank: int, alpha: float) -> list[torch.nn.Parameter]:
    """Freeze ``model``, add LoRA layers and return their parameters, float32, in module order.

    ``down`` starts Kaiming-uniform(a=√5) from torch's global generator and ``up`` at zero, as in kohya's trainer.
    """
    model.requires_grad_(False)
    # peft declares alpha an int; it only divides by the rank
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": names, "init_lora_weights": True}
    inject_adapter_in_model(LoraConfig(**settings), model, adapter_name=ADAPTER)
    parameters = []
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
            parameters.append(parameter)
    return parameters


def weights(model: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """``{layer name: (down, up)}`` of an injected model; empty for a model without LoRA layers."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, module in model.named_modules():
        down = getattr(module, "lora_A", None)
        up = getattr(module, "lora_B", None)
        if isinstance(down, torch.nn.ModuleDict) and isinstance(up, torch.nn.ModuleDict) and ADAPTER in down:
            found[name] = (_weight(down[ADAPTER]), _weight(up[ADAPTER]))
    return found


def _weight(layer: torch.nn.Module) -> torch.Tensor:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight
