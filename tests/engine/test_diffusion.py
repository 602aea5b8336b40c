"""The forward process against its formulas, written out here once more."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurent_engine.diffusion import Diffusion, diffusion, zero_terminal_signal
from gpurent_engine.families.loading import alphas_cumprod
from gpurent_engine.families.record import Prediction

CPU = torch.device("cpu")


def by_hand(step: int) -> float:
    """Product of 1 - beta up to ``step``; betas are squares of 1000 even steps between √0.00085 and √0.012."""
    a = 1.0
    for i in range(step + 1):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999
        a *= 1 - root**2
    return a


@pytest.fixture(params=["epsilon", "v_prediction"])
def process(request: pytest.FixtureRequest) -> Diffusion:
    kind: Prediction = request.param
    return diffusion(alphas_cumprod({}), kind, CPU)


@pytest.mark.parametrize("step", [0, 1, 250, 500, 999])
def test_the_schedule_is_that_of_the_papers_betas(process: Diffusion, step: int) -> None:
    """Signal² and noise² of every step add up to one, and signal² is the product of 1 - beta."""
    a = by_hand(step)
    assert float(process.signal[step]) == pytest.approx(math.sqrt(a), rel=1e-5)
    assert float(process.noise[step]) == pytest.approx(math.sqrt(1 - a), rel=1e-4)
    assert float(process.snr[step]) == pytest.approx(a / (1 - a), rel=1e-4)


@pytest.mark.parametrize("step", [3, 700])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights(process: Diffusion, step: int, gamma: float) -> None:
    """Hang et al. 2023: min(snr, γ) / snr for the noise, min(snr, γ) / (snr + 1) for v."""
    snr = by_hand(step) / (1 - by_hand(step))
    wanted = min(snr, gamma) / (snr + (process.prediction == "v_prediction"))
    assert float(process.min_snr(torch.tensor([step]), gamma)) == pytest.approx(wanted, rel=1e-4)


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(0, 99))
def test_noise_and_picture_can_be_had_back(step: int, seed: int) -> None:
    """From what v says and the noisy latent both follow (Salimans & Ho 2022); from the noise the picture does."""
    draw = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(1, 4, 2, 2, generator=draw), torch.randn(1, 4, 2, 2, generator=draw)
    times = torch.tensor([step])
    for kind in ("epsilon", "v_prediction"):
        process = diffusion(alphas_cumprod({}), kind, CPU)
        a, b = process.signal[step], process.noise[step]
        noisy, said = process.noised(clean, noise, times), process.target(clean, noise, times)
        if kind == "epsilon":
            assert torch.equal(said, noise) and torch.allclose(noisy, a * clean + b * noise)
        else:
            assert torch.allclose(a * noisy - b * said, clean, atol=1e-5)
            assert torch.allclose(b * noisy + a * said, noise, atol=1e-5)


def test_zero_terminal_snr_ends_in_pure_noise_and_begins_as_before() -> None:
    """Lin et al. 2023, algorithm 1, step by step: subtract the last root, scale so that the first stays."""
    roots = [math.sqrt(by_hand(step)) for step in range(1000)]
    wanted = [(root - roots[-1]) * roots[0] / (roots[0] - roots[-1]) for root in roots]
    got = zero_terminal_signal(alphas_cumprod({}).double().sqrt())
    assert got.tolist() == pytest.approx(wanted, abs=1e-6)
    process = diffusion(alphas_cumprod({}), "v_prediction", CPU, zero_terminal=True)
    assert float(process.signal[-1]) == 0.0 and float(process.noise[-1]) == 1.0
    assert float(process.signal[0]) == pytest.approx(roots[0], rel=1e-6)
    # weights are those of the base's own betas, as in kohya's trainer: none of them divides by zero
    assert float(process.snr[-1]) == pytest.approx(by_hand(999) / (1 - by_hand(999)), rel=1e-4)


@pytest.mark.parametrize(
    ("config", "first"),
    [
        ({}, 0.00085), ({"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.2}, 0.1),
        ({"trained_betas": [0.5, 0.25]}, 0.5), ({"beta_start": 0.04, "num_train_timesteps": 10}, 0.04),
    ],
)  # fmt: skip
def test_a_bases_own_schedule_is_followed(config: dict[str, object], first: float) -> None:
    """As its scheduler_config.json has it."""
    found = alphas_cumprod(config)
    assert float(found[0]) == pytest.approx(1 - first, rel=1e-6)
    assert len(found) == {"trained_betas": 2, "num_train_timesteps": 10}.get(list(config)[-1] if config else "", 1000)
