"""The classes of diffusers and transformers that a base model is made of, and little else of those libraries."""

from __future__ import annotations

from typing import Any

from gpurent_engine import postponed


def unet() -> Any:
    """diffusers' ``UNet2DConditionModel``."""
    postponed.postpone_unused()
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel


def vae() -> Any:
    """diffusers' ``AutoencoderKL``."""
    postponed.postpone_unused()
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL


def clip(*, projected: bool) -> tuple[Any, Any]:
    """transformers' class of text encoders, with a projection or without, and that of their configuration."""
    postponed.postpone_unused()
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    return (CLIPTextModelWithProjection if projected else CLIPTextModel), CLIPTextConfig
