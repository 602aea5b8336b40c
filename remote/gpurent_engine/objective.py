"""How far off a prediction is: losses as pure functions of tensors, for every stepper, also inside a CUDA graph.

Nothing here asks for a value, moves data or draws anything. Formulas: kohya-ss/sd-scripts ``library/train_util.py``
(conditional_loss, get_huber_threshold_if_needed) and ``library/custom_train_functions.py``.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import interpolate

from gpurent_engine.diffusion import Diffusion
from gpurent_engine.spec import TrainSpec

MOST_SNR = 1000.0
"""At the first time step the ratio of signal to noise is nearly infinite."""


def weights(times: torch.Tensor, diffusion: Diffusion, spec: TrainSpec) -> torch.Tensor:
    """Weight of each picture by its time step, float32 ``[b]``: min-SNR, v-prediction's scale, debiased estimation.

    Args:
        times: int64 ``[b]``, on the device.
        diffusion: tables; its ``snr`` is that of the base's own betas.
        spec: which of the weights apply. Several are multiplied, as in kohya's trainer.
    """
    found = torch.ones_like(times, dtype=torch.float32)
    predicts_v = diffusion.prediction == "v_prediction"
    if spec.min_snr_gamma is not None:
        found = found * diffusion.min_snr(times, spec.min_snr_gamma)
    snr = diffusion.snr[times].clamp(max=MOST_SNR)
    share = snr / (snr + 1)
    if spec.scale_v_pred_loss_like_noise_pred and predicts_v:
        found = found * share
    if spec.v_pred_like_loss and not predicts_v:
        found = found * (1 + spec.v_pred_like_loss / share)
    if spec.debiased_estimation_loss:
        # Yu et al. 2023, "Debias the Training of Diffusion Models"
        found = found / (snr + 1) if predicts_v else found / snr.sqrt()
    return found


def threshold(times: torch.Tensor, diffusion: Diffusion, spec: TrainSpec) -> torch.Tensor:
    """Where huber and smooth L1 turn from square to linear, float32 ``[b]``."""
    if spec.huber_schedule == "exponential":
        rate = -math.log(spec.huber_c) / diffusion.steps
        return torch.exp(-rate * times.float()) * spec.huber_scale
    if spec.huber_schedule == "snr":
        sigma = diffusion.snr[times].rsqrt()
        return (1 - spec.huber_c) / (1 + sigma).square() + spec.huber_c
    return torch.full_like(times, spec.huber_c * spec.huber_scale, dtype=torch.float32)


def errors(
    predicted: torch.Tensor, target: torch.Tensor, times: torch.Tensor, diffusion: Diffusion, *, spec: TrainSpec
) -> torch.Tensor:  # fmt: skip
    """Error of each value, float32 ``[b, c, h, w]``."""
    difference = predicted.float() - target.float()
    if spec.loss_type == "l2":
        return difference.square()
    if spec.loss_type == "l1":
        return difference.abs()
    # pseudo-Huber (Charbonnier et al. 1997): 2c(√(d² + c²) - c); smooth L1 is the same without the factor c
    c = threshold(times, diffusion, spec).view(-1, 1, 1, 1)
    bent = 2 * ((difference.square() + c.square()).sqrt() - c)
    return bent * c if spec.loss_type == "huber" else bent


def losses(
    predicted: torch.Tensor, target: torch.Tensor, times: torch.Tensor, diffusion: Diffusion, *, spec: TrainSpec,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Loss of each picture before its weight, float32 ``[b]``.

    Args:
        predicted, target: ``[b, c, h, w]``.
        times: int64 ``[b]``.
        diffusion: of the base.
        spec: the kind of loss.
        mask: float32 ``[b, 1, h, w]``, 0 to 1. What it hides adds nothing, and the mean is over all values: the loss
            of a picture that is mostly hidden is small, as in kohya's trainer.
    """
    found = errors(predicted, target, times, diffusion, spec=spec)
    if mask is not None:
        found = found * mask
    return found.mean(dim=(1, 2, 3))


def shrunk(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A mask ``[H, W]`` in the latent's size, each value the mean of the pixels that it stands for."""
    return interpolate(mask[None, None].float(), size=(height, width), mode="area")[0, 0]
