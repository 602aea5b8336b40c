"""Tiny models of the real architectures, random weights, and batches for them."""

from __future__ import annotations

from typing import Any

import diffusers as typed_diffusers
import torch
import transformers as typed_transformers

from gpurent_engine.diffusion import Diffusion, diffusion
from gpurent_engine.step.bank import Site

transformers: Any = typed_transformers
diffusers: Any = typed_diffusers

TOKENS, POOLED, VOCABULARY = 9, 16, 99
COMMON: dict[str, Any] = {
    "sample_size": 8, "cross_attention_dim": 24, "block_out_channels": (32, 64), "layers_per_block": 1,
    "norm_num_groups": 8,
}  # fmt: skip
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {
        **COMMON, "attention_head_dim": 2, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sd2": {
        **COMMON, "attention_head_dim": (2, 4), "use_linear_projection": True,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        **COMMON, "attention_head_dim": (2, 4), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": POOLED + 6 * 8,
    },
}  # fmt: skip
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
CONVOLUTIONS = ("conv1", "conv2", "time_emb_proj", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def unet(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**{**UNETS[family], **changes}).requires_grad_(False).eval()


def text_encoder(width: int = 24, *, projection: int = 0, layers: int = 2, act: str = "quick_gelu") -> Any:
    torch.manual_seed(1)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": act,
        "eos_token_id": VOCABULARY - 1,
        "bos_token_id": 0,
        "pad_token_id": VOCABULARY - 1,
    }
    kind = transformers.CLIPTextModel
    if projection:
        settings["projection_dim"], kind = projection, transformers.CLIPTextModelWithProjection
    return kind(transformers.CLIPTextConfig(**settings)).requires_grad_(False).eval()


def names(model: torch.nn.Module, endings: tuple[str, ...]) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if name.endswith(endings) and isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]


def sites(
    model: torch.nn.Module,
    part: str = "unet",
    endings: tuple[str, ...] = ATTENTION,
    *,
    rank: int = 4,
    scale: float = 0.5,
    group: int = 0,
) -> list[Site]:
    return [Site(f"{part}.{name}", part, name, rank, scale, group) for name in names(model, endings)]


def batch(
    family: str, size: int, draw: torch.Generator, *, ids: tuple[str, ...] = (), edge: int = 8
) -> dict[str, torch.Tensor]:
    shape = (size, 4, edge, edge)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=draw)

    found = {
        "mean": normal(*shape) * 4,
        "std": torch.rand(shape, generator=draw) * 0.1,
        "jitter": normal(*shape),
        "noise": normal(*shape),
        "times": torch.randint(0, 1000, (size,), generator=draw),
        "weight": torch.ones(size),
    }
    if not ids:
        found["text"] = normal(size, TOKENS, 24) * 0.5
    for part in ids:
        tokens = torch.randint(1, VOCABULARY - 1, (size, 1, TOKENS), generator=draw)
        tokens[..., 0], tokens[..., -2:] = 0, VOCABULARY - 1
        found[f"ids.{part}"] = tokens
    if family == "sdxl":
        found["pooled"] = normal(size, POOLED)
        found["sizes"] = torch.tensor([[8.0 * edge, 8.0 * edge, 0, 0, 8.0 * edge, 8.0 * edge]]).repeat(size, 1)
    return found


def process(prediction: Any = "epsilon") -> Diffusion:
    """The scaled-linear schedule of every Stable Diffusion."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return diffusion(torch.cumprod(1 - betas, 0), prediction, torch.device("cpu"))
