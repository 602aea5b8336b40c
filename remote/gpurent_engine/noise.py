"""What is added to a latent, drawn from one CPU generator: plain, offset, of several resolutions, perturbed.

Sources: kohya-ss/sd-scripts ``library/custom_train_functions.py`` (apply_noise_offset, pyramid_noise_like) and
``library/train_util.py`` (get_noise_noisy_latents_and_timesteps); crosslabs.org 2023, "Diffusion With Offset Noise";
Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training"; Ning et al. 2023, "Input Perturbation Reduces
Exposure Bias in Diffusion Models".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

from gpurent_engine.spec import TrainSpec


@dataclass(frozen=True)
class Noise:
    """``target`` is what the model shall find; ``added`` what the latent is mixed with, usually the same."""

    target: torch.Tensor
    added: torch.Tensor


def draw(clean: torch.Tensor, spec: TrainSpec, generator: torch.Generator) -> Noise:
    """Noise for latents ``clean`` ``[b, c, h, w]`` (scaled, on the CPU).

    Order of draws: standard normal; strength and values of the offset; each coarser resolution; strength and values of
    the perturbation.
    """
    noise = torch.randn(clean.shape, generator=generator)
    if spec.noise_offset:
        noise = offset(noise, clean, spec, generator)
    if spec.multires_noise_iterations:
        noise = pyramid(noise, spec.multires_noise_iterations, spec.multires_noise_discount, generator)
    if not spec.ip_noise_gamma:
        return Noise(noise, noise)
    strength = spec.ip_noise_gamma
    if spec.ip_noise_gamma_random_strength:
        strength *= float(torch.rand((), generator=generator))
    return Noise(noise, noise + strength * torch.randn(clean.shape, generator=generator))


def offset(noise: torch.Tensor, clean: torch.Tensor, spec: TrainSpec, generator: torch.Generator) -> torch.Tensor:
    """Shift whole channels, so that brightness is learnt too; more where the latent's own mean is large."""
    strength = torch.tensor(spec.noise_offset)
    if spec.noise_offset_random_strength:
        strength = strength * torch.rand((), generator=generator)
    if spec.adaptive_noise_scale:
        means = clean.mean(dim=(2, 3), keepdim=True).abs()
        strength = (strength + spec.adaptive_noise_scale * means).clamp(min=0)
    return noise + strength * torch.randn((*noise.shape[:2], 1, 1), generator=generator)


def pyramid(noise: torch.Tensor, iterations: int, discount: float, generator: torch.Generator) -> torch.Tensor:
    """Add noise of coarser and coarser size, scaled up, and bring the sum back to unit deviation."""
    batch, channels, height, width = noise.shape
    for level in range(iterations):
        # about 2 to 4 times coarser at each level, not always by the same factor
        ratio = (2 + 2 * float(torch.rand((), generator=generator))) ** level
        size = max(1, int(height / ratio)), max(1, int(width / ratio))
        coarse = torch.randn((batch, channels, *size), generator=generator)
        noise = noise + interpolate(coarse, size=(height, width), mode="bilinear") * discount**level
        if 1 in size:
            break
    return noise / noise.std()
