"""Sample pictures with the model that is being trained: any sampler of diffusers around a stepper's predictions."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch

from gpurent_engine.families.parts import Parts
from gpurent_engine.prompts import SAMPLERS
from gpurent_engine.spec import Sample
from gpurent_engine.stepper import Stepper
from gpurent_engine.text import Conditioner


def betas(alphas_cumprod: torch.Tensor) -> list[float]:
    """Each step's beta, from the product of 1 - beta up to it."""
    before = torch.cat([torch.ones(1), alphas_cumprod[:-1]])
    found: list[float] = (1 - alphas_cumprod / before).tolist()
    return found


def scheduler(name: str, alphas_cumprod: torch.Tensor, prediction: str, *, zero_terminal: bool = False) -> Any:
    """A scheduler of diffusers.

    Args:
        name: as kohya calls it.
        alphas_cumprod: of the base, on the CPU.
        prediction: ``epsilon`` or ``v_prediction``.
        zero_terminal: whether betas are rescaled to zero terminal SNR, where the scheduler knows how.
    """
    kind, arguments = SAMPLERS[name]
    # one module of diffusers, not all of them
    class_of = getattr(importlib.import_module(f"diffusers.schedulers.{MODULES[kind]}"), kind)
    given = {"trained_betas": betas(alphas_cumprod), "prediction_type": prediction, **arguments}
    if zero_terminal and "rescale_betas_zero_snr" in inspect.signature(class_of.__init__).parameters:
        given["rescale_betas_zero_snr"] = True
    return class_of(**given)


MODULES = {
    "DDIMScheduler": "scheduling_ddim", "DDPMScheduler": "scheduling_ddpm", "PNDMScheduler": "scheduling_pndm",
    "EulerDiscreteScheduler": "scheduling_euler_discrete",
    "EulerAncestralDiscreteScheduler": "scheduling_euler_ancestral_discrete",
    "HeunDiscreteScheduler": "scheduling_heun_discrete", "KDPM2DiscreteScheduler": "scheduling_k_dpm_2_discrete",
    "KDPM2AncestralDiscreteScheduler": "scheduling_k_dpm_2_ancestral_discrete",
    "DPMSolverMultistepScheduler": "scheduling_dpmsolver_multistep",
    "DPMSolverSinglestepScheduler": "scheduling_dpmsolver_singlestep",
}  # fmt: skip


@torch.no_grad()
def latent(
    stepper: Stepper, conditioner: Conditioner, parts: Parts, plan: Any, *, sample: Sample, device: torch.device
) -> torch.Tensor:  # fmt: skip
    """Draw one picture's latent, float32 ``[1, 4, h, w]``, unscaled. The training's random numbers stay as they are.

    Args:
        stepper: predicts.
        conditioner: of the training.
        parts: sizes and factors of the base.
        plan: a ``scheduler``.
        sample: what to draw.
        device: where.
    """
    draw = torch.Generator().manual_seed(sample.seed)
    shape = (1, 4, sample.height // parts.vae_factor, sample.width // parts.vae_factor)
    plan.set_timesteps(sample.steps)
    x = (torch.randn(shape, generator=draw) * plan.init_noise_sigma).to(device)
    guided = sample.guidance > 1
    text = conditioner([sample.negative, sample.prompt] if guided else [sample.prompt])
    count = 2 if guided else 1
    sizes = None
    if parts.family.size_conditioning:
        row = [sample.height, sample.width, 0, 0, sample.height, sample.width]
        sizes = torch.tensor([row] * count, dtype=torch.float32, device=device)
    takes_generator = "generator" in inspect.signature(plan.step).parameters
    more = {"generator": draw} if takes_generator else {}
    for at in plan.timesteps:
        noisy = plan.scale_model_input(x, at)
        # some samplers look between two steps; the base was trained on whole ones
        now = torch.full((count,), round(float(at)), dtype=torch.int64, device=device)
        said = stepper.predict(noisy.expand(count, -1, -1, -1), now, text, sizes).float()
        if guided:  # Ho & Salimans 2022, "Classifier-Free Diffusion Guidance"
            empty, wanted = said.chunk(2)
            said = empty + sample.guidance * (wanted - empty)
        # ancestral noise comes from the CPU's generator, so that every device draws the same
        x = plan.step(said.cpu(), at, x.cpu(), **more).prev_sample.to(device)
    found: torch.Tensor = x / parts.vae_scale
    return found


@torch.no_grad()
def decoded(vae: Any, latents: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Pixels, float32 ``[3, h, w]`` in 0…1 on the CPU.

    Args:
        vae: anywhere; it is moved to ``device``.
        latents: ``[1, 4, h, w]``.
        device: where to decode.
    """
    vae.to(device)
    pixels = vae.decode(latents.to(device, vae.dtype)).sample
    picture: torch.Tensor = (pixels[0].float() / 2 + 0.5).clamp(0, 1).cpu()
    return picture
