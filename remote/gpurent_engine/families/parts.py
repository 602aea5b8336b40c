"""A loaded base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gpurent_engine.families.record import Family, TextEncoder

if TYPE_CHECKING:
    from gpurent_engine.families.detect import Detected
    from gpurent_engine.families.tokenizer import Tokenizer


class ModelError(Exception):
    """The base model cannot be loaded, or is not one that this engine trains."""


@dataclass
class Encoder:
    """One text encoder with its tokenizer."""

    facts: TextEncoder
    model: Any
    tokenizer: Tokenizer

    @property
    def inner(self) -> Any:
        """The module that holds ``encoder`` and ``final_layer_norm``.

        transformers 5.6 dropped the level ``text_model`` from CLIPTextModel and kept it in the one with a projection.
        """
        return getattr(self.model, "text_model", self.model)


@dataclass
class Parts:
    """The frozen base. ``vae_factor`` is pixels per latent, 8 for real models."""

    found: Detected
    """Family, and what the base says of its own prediction."""
    unet: Any
    text_encoders: list[Encoder]
    vae: Any
    alphas_cumprod: torch.Tensor
    """Product of 1 - beta up to each time step, float32 ``[1000]``."""
    vae_factor: int
    vae_scale: float

    @property
    def family(self) -> Family:
        """The record."""
        return self.found.family
