"""Stable Diffusion 1.x: one CLIP text encoder, an epsilon-predicting UNet, a KL autoencoder of any depth."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError


class ModelError(Exception):
    """The base model cannot be loaded, or is not one that this engine trains."""


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
        ModelError: a part is missing, the hub cannot be reached, or the model is not Stable Diffusion 1.x.
    """
    import diffusers

    library: Any = diffusers  # its annotations deny what its documentation promises
    common: dict[str, Any] = {
        "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
        "torch_dtype": torch.float32, "use_safetensors": True,
    }  # fmt: skip
    try:
        if Path(base_model).is_file():
            pipeline = library.StableDiffusionPipeline.from_single_file(base_model, **common)
        else:
            pipeline = library.StableDiffusionPipeline.from_pretrained(base_model, **common)
    except OSError as error:
        if error.errno is not None and error.errno == errno.ENOSPC:
            raise
        raise ModelError(f"{base_model} cannot be loaded: {error}") from error
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{base_model} cannot be loaded: {error}") from error
    noise = library.DDPMScheduler.from_config(pipeline.scheduler.config)
    if noise.config.prediction_type != "epsilon":
        raise ModelError(f"{base_model} predicts {noise.config.prediction_type}, which this version does not train")
    if pipeline.unet.config.use_linear_projection:
        raise ModelError(f"{base_model} is a Stable Diffusion 2.x model; this version trains 1.x only")
    vae = pipeline.vae.eval()
    return Parts(
        unet=pipeline.unet, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer, vae=vae, scheduler=noise,
        vae_factor=2 ** (len(vae.config.block_out_channels) - 1), vae_scale=float(vae.config.scaling_factor),
    )  # fmt: skip
