"""Losses, weights, noise and curves against values computed by hand from their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers.optimization import get_scheduler
from tests.engine.run import spec
from transformers import get_scheduler as transformers_scheduler

from gpurent_engine import noise, objective, schedule
from gpurent_engine.diffusion import Diffusion, diffusion
from gpurent_engine.families.record import Prediction

TIMES = torch.tensor([0, 250, 999])


def process(prediction: Prediction = "epsilon") -> Diffusion:
    """Stable Diffusion's own schedule (scaled linear, Rombach et al. 2022)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return diffusion((1 - betas).cumprod(0), prediction, torch.device("cpu"))


def snr_of(time: int) -> float:
    """Signal to noise at a time step, by hand."""
    product = 1.0
    for i in range(time + 1):
        beta = (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2
        product *= 1 - beta
    return product / (1 - product)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_weights_equal_their_formulas(prediction: Prediction) -> None:
    """min-SNR (Hang 2023), debiased estimation (Yu 2023), v-prediction's scale and addition, and all together."""
    made = process(prediction)
    snrs = [snr_of(int(time)) for time in TIMES]
    v = prediction == "v_prediction"
    shares = [min(snr, 1000) / (min(snr, 1000) + 1) for snr in snrs]
    by_hand = {
        "min_snr_gamma": [min(snr, 5) / (snr + 1 if v else snr) for snr in snrs],
        "debiased_estimation_loss": [1 / (min(s, 1000) + 1) if v else 1 / math.sqrt(min(s, 1000)) for s in snrs],
        "scale_v_pred_loss_like_noise_pred": shares if v else [1.0] * 3,
        "v_pred_like_loss": [1.0] * 3 if v else [1 + 0.5 / share for share in shares],
    }
    values = {"min_snr_gamma": 5, "v_pred_like_loss": 0.5}
    for key, wanted in by_hand.items():
        found = objective.weights(TIMES, made, spec(**{key: values.get(key, True)}))
        assert found.tolist() == pytest.approx(wanted, rel=1e-4), key
    both = objective.weights(TIMES, made, spec(**{key: values.get(key, True) for key in by_hand}))
    assert both.tolist() == pytest.approx([math.prod(row) for row in zip(*by_hand.values(), strict=True)], rel=1e-4)


@pytest.mark.parametrize("schedule_", ["constant", "exponential", "snr"])
@pytest.mark.parametrize("kind", ["huber", "smooth_l1", "l1", "l2"])
def test_losses_equal_their_formulas(kind: str, schedule_: str) -> None:
    """Pseudo-Huber 2c(√(d² + c²) - c), smooth L1 without the factor c, and the threshold of each schedule."""
    made, difference = process(), 0.7
    found = objective.losses(
        torch.full((3, 4, 2, 2), difference), torch.zeros(3, 4, 2, 2), TIMES, made,
        spec=spec(loss_type=kind, huber_schedule=schedule_, huber_c=0.2, huber_scale=1.5),
    )  # fmt: skip
    for time, loss in zip(TIMES.tolist(), found.tolist(), strict=True):
        c = {
            "constant": 0.2 * 1.5,
            "exponential": math.exp(math.log(0.2) / 1000 * time) * 1.5,
            "snr": (1 - 0.2) / (1 + 1 / math.sqrt(snr_of(time))) ** 2 + 0.2,
        }[schedule_]
        bent = 2 * (math.sqrt(difference**2 + c**2) - c)
        assert loss == pytest.approx(
            {"l2": difference**2, "l1": difference, "huber": bent * c, "smooth_l1": bent}[kind]
        )


def test_a_mask_hides_what_it_hides() -> None:
    """Half of the picture hidden is half of the loss; the mask is the mean of the pixels that a latent stands for."""
    error = torch.ones(1, 4, 2, 2)
    pixels = torch.zeros(16, 16)
    pixels[:, 8:] = 1
    mask = objective.shrunk(pixels, 2, 2)
    assert mask.tolist() == [[0, 1], [0, 1]]
    found = objective.losses(
        error, torch.zeros_like(error), torch.tensor([5]), process(), spec=spec(), mask=mask[None, None]
    )
    assert found.tolist() == [0.5]


def by_hand(seed: int, shape: tuple[int, ...], *more: tuple[int, ...]) -> list[torch.Tensor]:
    """Draws of one generator in order."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(one, generator=generator) for one in (shape, *more)]


def test_noise_offset_shifts_channels() -> None:
    """noise + offset · N(0, 1) for each channel (crosslabs.org 2023); the strength may grow with the latent's mean."""
    shape = (2, 4, 8, 8)
    clean = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 0.4
    plain, shift = by_hand(3, shape, (2, 4, 1, 1))
    found = noise.draw(clean, spec(noise_offset=0.1), torch.Generator().manual_seed(3))
    assert torch.equal(found.target, plain + 0.1 * shift) and found.added is found.target
    found = noise.draw(clean, spec(noise_offset=0.1, adaptive_noise_scale=0.5), torch.Generator().manual_seed(3))
    strength = 0.1 + 0.5 * clean.mean(dim=(2, 3), keepdim=True).abs()
    assert torch.allclose(found.target, plain + strength * shift)


def test_pyramid_noise_is_the_sum_of_coarser_noises() -> None:
    """Each level scaled up and discounted; the sum has unit deviation (Whitaker 2023)."""
    shape = (1, 4, 16, 16)
    generator = torch.Generator().manual_seed(7)
    wanted = torch.randn(shape, generator=generator)
    for level in range(4):
        ratio = (2 + 2 * float(torch.rand((), generator=generator))) ** level
        size = max(1, int(16 / ratio)), max(1, int(16 / ratio))
        coarse = torch.randn((1, 4, *size), generator=generator)
        wanted = wanted + torch.nn.Upsample(size=(16, 16), mode="bilinear")(coarse) * 0.3**level
        if 1 in size:
            break
    found = noise.draw(torch.zeros(shape), spec(multires_noise_iterations=4), torch.Generator().manual_seed(7)).target
    assert torch.allclose(found, wanted / wanted.std()) and float(found.std()) == pytest.approx(1, abs=1e-5)


def test_input_perturbation_disturbs_the_input_and_not_the_target() -> None:
    """The latent is mixed with noise + γ · N(0, 1); what has to be found is the noise (Ning 2023)."""
    shape = (1, 4, 8, 8)
    plain, more = by_hand(5, shape, shape)
    found = noise.draw(torch.zeros(shape), spec(ip_noise_gamma=0.2), torch.Generator().manual_seed(5))
    assert torch.equal(found.target, plain) and torch.allclose(found.added, plain + 0.2 * more)


OTHERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("inverse_sqrt", {"lr_warmup_steps": 10}, {"num_warmup_steps": 10, "scheduler_specific_kwargs": {}}),
    (
        "inverse_sqrt", {"lr_scheduler_timescale": 50},
        {"num_warmup_steps": 0, "scheduler_specific_kwargs": {"timescale": 50}},
    ),
    (
        "cosine_with_min_lr", {"lr_warmup_steps": 10, "lr_scheduler_min_lr_ratio": 0.2},
        {"num_warmup_steps": 10, "num_training_steps": 100, "scheduler_specific_kwargs": {"min_lr_rate": 0.2}},
    ),
    (
        "warmup_stable_decay",
        {"lr_warmup_steps": 10, "lr_decay_steps": 0.3, "lr_scheduler_min_lr_ratio": 0.1},
        {
            "num_warmup_steps": 10, "num_training_steps": 100,
            "scheduler_specific_kwargs": {"num_decay_steps": 30, "min_lr_ratio": 0.1, "num_stable_steps": 60},
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "keys", "theirs"), OTHERS)
def test_curves_equal_those_of_transformers(name: str, keys: dict[str, Any], theirs: dict[str, Any]) -> None:
    """At every one of 100 steps, as kohya's trainer calls them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    curve: Any = transformers_scheduler(name, optimizer, **theirs)
    of = spec(lr_scheduler=name, **keys)
    for step in range(100):
        assert schedule.of(of, step, 100, 1.0) == pytest.approx(curve.get_last_lr()[0], abs=1e-9), step
        optimizer.step()
        curve.step()


def test_piecewise_constant_equals_diffusers() -> None:
    """Rules as in ``step_rules``."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    curve: Any = get_scheduler("piecewise_constant", optimizer, step_rules="1:10,0.5:30,0.1")
    of = spec(lr_scheduler="piecewise_constant", lr_scheduler_args=["step_rules=1:10,0.5:30,0.1"])
    for step in range(50):
        assert schedule.of(of, step, 50, 1.0) == curve.get_last_lr()[0]
        optimizer.step()
        curve.step()


def test_a_curve_of_torchs_own_is_followed() -> None:
    """``lr_scheduler_type`` with its arguments, stepped once for each optimiser step."""
    of = spec(lr_scheduler_type="CosineAnnealingLR", lr_scheduler_args=["T_max=20", "eta_min=0.1"])
    found = schedule.torch_factors(of, 21)
    assert found[0] == 1 and found[10] == pytest.approx(0.55) and found[20] == pytest.approx(0.1)
