"""Optimisers that configurations name: one step against an independent computation, and exact states."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.engine.run import run, spec
from tests.thorough import often

from gpurent_engine import optim
from gpurent_engine.optim import UnknownOptimizer
from gpurent_engine.spec import SpecError

CPU = torch.device("cpu")
GRADIENT = torch.tensor([0.5, -2.0, 0.0])
START = torch.tensor([1.0, 2.0, 3.0])


def stepped(rate: float = 0.1, **keys: object) -> torch.Tensor:
    """Three numbers after one step along ``GRADIENT``."""
    weight = torch.nn.Parameter(START.clone())
    optimizer, _ = optim.make(spec(**keys), [([weight], rate)], CPU)
    weight.grad = GRADIENT.clone()
    optimizer.step()
    return weight.detach()


NUMBERS = list(zip(START.tolist(), GRADIENT.tolist(), strict=True))


def adamw(rate: float, decay: float) -> list[float]:
    """Loshchilov & Hutter 2019, algorithm 2: the first step goes by rate · sign."""
    return [w * (1 - rate * decay) - rate * g / (abs(g) + 1e-8) for w, g in NUMBERS]


def lion(rate: float, decay: float) -> list[float]:
    """Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms": the sign of the interpolated momentum."""
    return [w * (1 - rate * decay) - rate * math.copysign(g != 0, g) for w, g in NUMBERS]


def prodigy(_rate: float, _decay: float) -> list[float]:
    """Mishchenko & Defazio 2023, algorithm 4: with d = d₀ = 1e-6 the first step is d times Adam's, not corrected."""
    d = 1e-6
    return [w - d * 0.1 * g * d / (math.sqrt(0.001) * abs(g) * d + d * 1e-8) if g else w for w, g in NUMBERS]


def nesterov(rate: float, _decay: float) -> list[float]:
    """Sutskever et al. 2013, as torch writes it: g + 0.9 · v, where the first v is g."""
    return [w - rate * 1.9 * g for w, g in NUMBERS]


@pytest.mark.parametrize(
    ("kind", "arguments", "by_hand"),
    [
        ("AdamW", ["weight_decay=0.1"], adamw), ("Lion", ["weight_decay=0.1"], lion),
        ("Prodigy", ["weight_decay=0"], prodigy), ("SGDNesterov", [], nesterov),
    ],
)  # fmt: skip
def test_one_step_equals_its_formula(
    kind: str, arguments: list[str], by_hand: Callable[[float, float], list[float]]
) -> None:  # fmt: skip
    """Computed number by number."""
    rate = 1.0 if kind == "Prodigy" else 0.1
    found = stepped(rate, optimizer_type=kind, optimizer_args=arguments)
    assert found.tolist() == pytest.approx(by_hand(rate, 0.1), abs=1e-6)


def test_adafactor_without_relative_step_takes_the_rate() -> None:
    """Shazeer & Stern 2018, algorithm 4, for a vector: g / √(g² + 1e-30), clipped to a mean square of 1."""
    arguments = ["scale_parameter=False", "relative_step=False", "warmup_init=False"]
    found = stepped(0.01, optimizer_type="Adafactor", optimizer_args=arguments)
    update = [math.copysign(1.0, g) if g else 0.0 for g in GRADIENT.tolist()]
    root = math.sqrt(sum(u * u for u in update) / 3)
    wanted = [w - 0.01 * u / max(1.0, root) for w, u in zip(START.tolist(), update, strict=True)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_adafactor_by_itself_finds_the_rate_and_says_so() -> None:
    """kohya's default for it is relative_step, which takes no rate from outside."""
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer, note = optim.make(spec(optimizer_type="Adafactor"), [([weight], 0.1)], CPU)
    assert optimizer.param_groups[0]["relative_step"] and "by itself" in note


def test_an_adaptive_optimizer_takes_one_rate_for_all() -> None:
    """prodigyopt raises in the first step where rates differ; the first counts, and that is said."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer, note = optim.make(
        spec(optimizer_type="Prodigy"), [([weights[0]], 1.0), ([weights[1]], 0.5)], CPU
    )  # fmt: skip
    assert {group["lr"] for group in optimizer.param_groups} == {1.0} and "one learning rate" in note


@pytest.mark.parametrize("kind", ["PagedAdamW8bit", "Lion8bit", "SGDNesterov8bit", "AdamW8bit"])
def test_kinds_for_gpus_are_computed_in_float32_without_one(kind: str) -> None:
    """With a note that names what is missing."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer, note = optim.make(spec(optimizer_type=kind), [([weight], 0.1)], CPU)
    assert type(optimizer).__module__.startswith(("torch", "lion_pytorch")) and "needs a CUDA GPU" in note


def test_arguments_that_an_optimizer_does_not_take_are_refused() -> None:
    """By the key that they came from."""
    with pytest.raises(SpecError, match="optimizer_args"):
        stepped(optimizer_type="AdamW", optimizer_args=["momentum=0.9"])
    with pytest.raises(UnknownOptimizer):
        stepped(optimizer_type="torch.optim.Nothing")


EVERY: dict[str, dict[str, Any]] = {
    "Prodigy": {"optimizer_args": ["decouple=True", "safeguard_warmup=True"], "unet_lr": 1.0, "text_encoder_lr": 1.0},
    "DAdaptation": {"optimizer_args": ["decouple=True"], "unet_lr": 1.0, "text_encoder_lr": 1.0},
    "Adafactor": {}, "Lion": {}, "AdamWScheduleFree": {"optimizer_args": ["warmup_steps=2"]}, "SGDNesterov": {},
    "torch.optim.NAdam": {},
    "RAdamScheduleFree": {"optimizer_args": ["silent_sgd_phase=False"]},  # else nothing is learnt in the first steps
}  # fmt: skip


@pytest.mark.parametrize("kind", often(sorted(EVERY), ["AdamWScheduleFree", "Prodigy"]))
def test_every_optimizer_resumes_exactly(base_model: Path, pictures: Path, tmp_path: Path, kind: str) -> None:
    """Stopped and resumed equals uninterrupted, bit for bit."""
    keys = {"optimizer_type": kind, **EVERY[kind]}
    whole = run(spec(max_train_epochs=2, **keys), base_model, pictures, tmp_path / "whole")
    run(spec(max_train_epochs=1, **keys), base_model, pictures, tmp_path / "parts")
    rest = run(spec(max_train_epochs=2, **keys), base_model, pictures, tmp_path / "parts", resume=True)
    assert rest.losses == whole.losses[-len(rest.losses) :]
    first, second = (load_file(tmp_path / folder / "disc.safetensors") for folder in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(math.isfinite(loss) for loss in whole.losses)
