"""From cached latents and random draws to a loss a sample, without a wait for the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gpurent_engine.diffusion import Diffusion

Inputs = Mapping[str, torch.Tensor]
"""What one micro-batch needs, all on the device and drawn outside:

``mean``, ``std``, ``jitter``, ``noise``, ``times``, ``weight``: as in ``gpurent_engine.stepper.Batch``;
``text``: hidden states ``[b, tokens, width]`` of all encoders side by side, if none of them trains;
``ids.<encoder>``: int64 ``[b, chunks, 77]``, or ``hidden.<encoder>`` for one that is frozen, otherwise;
``pooled``: ``[b, width]`` and ``sizes``: float32 ``[b, 6]`` for SDXL.
"""


@dataclass(frozen=True)
class Objective:
    """What the model shall predict, and how far off it is."""

    diffusion: Diffusion
    latent_scale: float

    def noisy(self, x: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's input and its target, float32 ``[b, h, w, 4]``."""
        clean = (x["mean"] + x["std"] * x["jitter"]) * self.latent_scale
        noisy = self.diffusion.noised(clean, x["noise"], x["times"])
        target = self.diffusion.target(clean, x["noise"], x["times"])
        return noisy.permute(0, 2, 3, 1), target.permute(0, 2, 3, 1)

    def losses(self, predicted: torch.Tensor, target: torch.Tensor, x: Inputs) -> torch.Tensor:
        """Each sample's weighted loss, float32 ``[b]``."""
        return (predicted.float() - target).square().mean(dim=(1, 2, 3)) * x["weight"]
