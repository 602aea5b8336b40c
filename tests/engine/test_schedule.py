"""Learning-rate curves against diffusers' own."""

from __future__ import annotations

import pytest
import torch
from diffusers.optimization import get_scheduler

from gpurent_engine.schedule import factor, warmup_steps


@pytest.mark.parametrize(
    ("name", "warmup", "cycles", "power"),
    [
        ("constant", 0, 1, 1.0),
        ("constant_with_warmup", 7, 1, 1.0),
        ("linear", 5, 1, 1.0),
        ("cosine", 0, 1, 1.0),
        ("cosine", 9, 1, 1.0),
        ("cosine_with_restarts", 4, 1, 1.0),
        ("cosine_with_restarts", 4, 3, 1.0),
        ("polynomial", 3, 1, 2.0),
    ],
)
def test_the_curve_equals_diffusers(name: str, warmup: int, cycles: int, power: float) -> None:
    """Every step's rate equals diffusers' scheduler of the same name."""
    base, total = 2e-3, 60
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    theirs = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=total, num_cycles=cycles, power=power
    )
    for step in range(total):
        ours = base * factor(name, step, warmup=warmup, total=total, cycles=cycles, power=power, base=base)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9, abs=1e-15)
        optimizer.step()
        theirs.step()


def test_a_whole_number_is_steps_and_a_float_a_share() -> None:
    """kohya's reading of lr_warmup_steps."""
    assert (warmup_steps(100, 500), warmup_steps(0.1, 500), warmup_steps(1.0, 500)) == (100, 50, 500)


def test_an_unknown_curve_is_refused() -> None:
    """A name that is not a curve raises instead of training at a constant rate."""
    with pytest.raises(ValueError, match="bogus"):
        factor("bogus", 1, warmup=0, total=2)
