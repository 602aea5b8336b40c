"""Stable Diffusion 1.x: one CLIP text encoder, an epsilon-predicting UNet, a KL autoencoder of any depth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Parts:
    """The frozen base. ``vae_factor`` is pixels per latent (8 for the real model), read from the model."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    vae: Any
    scheduler: Any
    vae_factor: int
    vae_scale: float


def load(base_model: str) -> Parts:
    """Load a diffusers folder, a single ``.safetensors`` file, or a hub id, in float32 on the CPU.

    Only safetensors weights are read, never pickles.

    Raises:
        OSError: a part is missing or the hub cannot be reached.
        ValueError: the model does not predict epsilon.
    """
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    common: dict[str, Any] = {
        "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
        "torch_dtype": torch.float32, "use_safetensors": True,
    }  # fmt: skip
    if Path(base_model).is_file():
        pipeline = StableDiffusionPipeline.from_single_file(base_model, **common)
    else:
        pipeline = StableDiffusionPipeline.from_pretrained(base_model, **common)
    noise = DDPMScheduler.from_config(pipeline.scheduler.config)
    if noise.config.prediction_type != "epsilon":
        raise ValueError(f"the base model predicts {noise.config.prediction_type}, which this version does not train")
    vae = pipeline.vae.eval()
    return Parts(
        unet=pipeline.unet, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer, vae=vae, scheduler=noise,
        vae_factor=2 ** (len(vae.config.block_out_channels) - 1), vae_scale=float(vae.config.scaling_factor),
    )  # fmt: skip
