"""Real architectures without their weights: every part on torch's meta device, so that names and shapes can be seen."""

from __future__ import annotations

from typing import Any

import diffusers as typed_diffusers
import torch
import transformers as typed_transformers

from gpurent_engine.families import SD2, SD15, SDXL, Family
from gpurent_engine.families.detect import Detected
from gpurent_engine.families.parts import Encoder, Parts
from gpurent_engine.families.tokenizer import Tokenizer

transformers: Any = typed_transformers
diffusers: Any = typed_diffusers  # its annotations contradict its own defaults

UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sd2": {
        "sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
        "block_out_channels": (320, 640, 1280), "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
LAYERS = {"sd15": (12,), "sd2": (23,), "sdxl": (12, 32)}


def meta_parts(family: Family) -> Parts:
    """The base of ``family`` with real shapes; no VAE, no tokenizer, no numbers."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**UNETS[family.name])
        encoders = [
            Encoder(facts, _clip(facts.width, facts.heads, layers, facts.pooled), Tokenizer(None, 0, 1, 1))
            for facts, layers in zip(family.text_encoders, LAYERS[family.name], strict=True)
        ]
    return Parts(Detected(family, "epsilon"), unet, encoders, None, torch.ones(1000), 8, family.latent_scale)


def _clip(width: int, heads: int, layers: int, projected: bool) -> Any:
    config = transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        projection_dim=width,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


ALL = (SD15, SD2, SDXL)
