"""The forward process: how pictures are noised, what the UNet has to predict, how much each time step weighs.

``a`` is the product of 1 - beta up to a time step (Ho et al. 2020, "Denoising Diffusion Probabilistic Models").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gpurent_engine.families.record import Prediction


@dataclass(frozen=True)
class Diffusion:
    """Tables over time steps, float32 ``[steps]`` each, on the device."""

    signal: torch.Tensor
    """√a: share of the picture."""
    noise: torch.Tensor
    """√(1 - a): share of the noise."""
    snr: torch.Tensor
    """a / (1 - a) of the base's own betas. kohya's trainer takes it before betas are rescaled to zero terminal SNR, so
    that no weight divides by zero."""
    prediction: Prediction

    @property
    def steps(self) -> int:
        """Time steps, 1000 for every family."""
        return len(self.signal)

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """``√a · clean + √(1 - a) · noise`` for latents ``[b, c, h, w]`` and times ``[b]``."""
        return self.signal[times].view(-1, 1, 1, 1) * clean + self.noise[times].view(-1, 1, 1, 1) * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """What the UNet should say: the noise, or v (Salimans & Ho 2022, "Progressive Distillation", section 2.4)."""
        if self.prediction == "epsilon":
            return noise
        return self.signal[times].view(-1, 1, 1, 1) * noise - self.noise[times].view(-1, 1, 1, 1) * clean

    def min_snr(self, times: torch.Tensor, gamma: float) -> torch.Tensor:
        """Weights ``[b]`` of Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"."""
        snr = self.snr[times]
        capped = snr.clamp(max=gamma)
        return capped / snr if self.prediction == "epsilon" else capped / (snr + 1)


def diffusion(
    alphas_cumprod: torch.Tensor, prediction: Prediction, device: torch.device, *, zero_terminal: bool = False
) -> Diffusion:
    """Tables from the base's ``a``; ``zero_terminal`` rescales it so that the last step holds no picture at all."""
    a = alphas_cumprod.double()
    snr = a / (1 - a)
    signal = a.sqrt()
    if zero_terminal:
        signal = zero_terminal_signal(signal)
    noise = (1 - signal.square()).sqrt()
    signal, noise, snr = (one.float().to(device) for one in (signal, noise, snr))
    return Diffusion(signal, noise, snr, prediction)


def zero_terminal_signal(signal: torch.Tensor) -> torch.Tensor:
    """Shift √a to end at 0 and scale it to begin as before (Lin et al. 2023, "Common Diffusion Noise Schedules and
    Sample Steps are Flawed", algorithm 1)."""
    first, last = signal[0], signal[-1]
    return (signal - last) * first / (first - last)
