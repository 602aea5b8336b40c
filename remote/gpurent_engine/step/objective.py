"""From cached latents and random draws to a loss a sample, without a wait for the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

Inputs = Mapping[str, torch.Tensor]
"""What one micro-batch needs, all on the device and drawn outside:

``mean``, ``std``, ``eps``, ``noise``: float32 ``[b, 4, h, w]``: the posterior of the VAE, the draw from it, the noise;
``times``: int64 ``[b]``; ``weights``: float32 ``[b]``, optional: each sample's share (min-SNR, prior weight);
``mask``: float32 ``[b, 1, h, w]``, optional; ``input_noise``: float32 like ``noise``, optional: noise of the input
where it differs from the target's; ``delta``: float32 ``[b]``, for the Huber losses;
``text``: ``[b, tokens, width]``, or ``ids.<encoder>`` int64 ``[b, tokens]`` where a text encoder trains;
``pooled``: ``[b, width]`` and ``time_ids``: float32 ``[b, 6]`` for SDXL.
"""


@dataclass(frozen=True)
class Objective:
    """What the model shall predict, and how far off it is.

    ``prediction`` is ``epsilon`` or ``v_prediction`` (Salimans and Ho 2022). ``loss`` is ``l2``, ``huber`` or
    ``smooth_l1``; the last two in the pseudo-Huber form of Song and Dhariwal 2023, as in kohya's trainer.
    """

    alphas: torch.Tensor
    """Cumulative products ``ᾱ`` of the noise schedule, float32 ``[steps]``."""
    latent_scale: float
    prediction: str = "epsilon"
    loss: str = "l2"

    def noisy(self, x: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's input and its target, float32 ``[b, h, w, 4]``."""
        clean = (x["mean"] + x["std"] * x["eps"]) * self.latent_scale
        kept = self.alphas[x["times"]][:, None, None, None]
        signal, strength = kept.sqrt(), (1 - kept).sqrt()
        noisy = signal * clean + strength * x.get("input_noise", x["noise"])
        target = x["noise"] if self.prediction == "epsilon" else signal * x["noise"] - strength * clean
        return noisy.permute(0, 2, 3, 1), target.permute(0, 2, 3, 1)

    def losses(self, predicted: torch.Tensor, target: torch.Tensor, x: Inputs) -> torch.Tensor:
        """Each sample's loss, float32 ``[b]``."""
        off = predicted.float() - target
        if self.loss == "l2":
            each = off.square()
        else:
            delta = x["delta"][:, None, None, None]
            root = (off.square() + delta.square()).sqrt() - delta
            each = 2 * delta * root if self.loss == "huber" else 2 * root
        if "mask" in x:
            each = each * x["mask"].permute(0, 2, 3, 1)
        found = each.mean(dim=(1, 2, 3))
        return found * x["weights"] if "weights" in x else found
