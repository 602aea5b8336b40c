"""Stable Diffusion 1.x, 2.x and XL in miniature, as folders and as single files; every part real, weights random.

Widths are the least that the architectures allow, so that a single file's configuration can be told from its shapes:
32 channels for a group norm of 32 groups, 64 for one head of a CLIP encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import torch
import transformers as typed_transformers
from safetensors.torch import save_file
from tests.engine import original_names
from tests.engine.tiny_model import tokenizer

from gpurent_engine.families import get

transformers: Any = typed_transformers
diffusers: Any = typed_diffusers  # its annotations contradict its own defaults

OPENAI = 49408
"""Tokens of the vocabulary that single files are written for."""
_UNET: dict[str, Any] = {"sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1}
_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {
        "cross_attention_dim": 64, "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sd2": {
        "cross_attention_dim": 64, "attention_head_dim": (1, 1), "use_linear_projection": True,
        "upcast_attention": True,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        "cross_attention_dim": 192, "attention_head_dim": (1, 1), "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64 + 6 * 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
}  # fmt: skip
_WIDTHS = {"sd15": (64,), "sd2": (64,), "sdxl": (64, 128)}


def build(
    folder: Path, family: str, *, vocabulary: int = 0, prediction: str = "epsilon", zero_snr: bool = False
) -> Path:
    """Save a diffusers folder; ``vocabulary`` 0 is the tiny tokenizer's."""
    torch.manual_seed(3)
    words = tokenizer()
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction, rescale_betas_zero_snr=zero_snr,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "vae": _vae(get(family).latent_scale), "unet": diffusers.UNet2DConditionModel(**_UNET, **_UNETS[family]),
        "scheduler": scheduler,
    }  # fmt: skip
    for facts, width in zip(get(family).text_encoders, _WIDTHS[family], strict=True):
        parts[facts.folder] = _encoder(words, width, vocabulary, facts.pooled, facts.activation)
        parts[facts.tokenizer] = words
    if family == "sdxl":
        pipeline = diffusers.StableDiffusionXLPipeline(**parts)
    else:
        unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = diffusers.StableDiffusionPipeline(**parts, **unused)
    pipeline.save_pretrained(folder)
    return folder


def single_file(path: Path, family: str, *, markers: tuple[str, ...] = ()) -> Path:
    """The same model as one file, under the names of the family's own training code."""
    folder = build(path.with_suffix(""), family, vocabulary=OPENAI)
    kind = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    pipe = kind.from_pretrained(folder, safety_checker=None) if family != "sdxl" else kind.from_pretrained(folder)
    found = {name: torch.zeros(1) for name in markers}
    found |= original_names.unet(pipe.unet.state_dict(), _UNETS[family]["up_block_types"])
    found |= original_names.vae(pipe.vae.state_dict())
    text = pipe.text_encoder.state_dict()
    if family == "sd15":
        found |= original_names.clip(text, "cond_stage_model.transformer.")
    elif family == "sd2":
        found |= original_names.openclip(text, "cond_stage_model.model.", spare_layer=True)
    else:
        found |= original_names.clip(text, "conditioner.embedders.0.transformer.")
        found |= original_names.openclip(pipe.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    save_file({name: one.contiguous().clone() for name, one in found.items()}, path)
    return path


def _encoder(words: Any, width: int, vocabulary: int, projected: bool, activation: str) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary or len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=width // 64, max_position_embeddings=77, hidden_act=activation, projection_dim=64,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def _vae(scale: float) -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64), layers_per_block=1, latent_channels=4, sample_size=32, scaling_factor=scale,
    )  # fmt: skip
