"""Where memory runs out, a step is taken in smaller pieces; what it computes stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.step import models
from tests.thorough import often

from gpurent_engine.diffusion import Diffusion
from gpurent_engine.fitting import FittingStepper, cut, gathered
from gpurent_engine.networks.plan import UNET, Group, Layer, Plan
from gpurent_engine.step.fast import FastStepper
from gpurent_engine.step.switches import Switches
from gpurent_engine.step.update import Hyper
from gpurent_engine.stepper import Batch, NoMemory, undoing
from gpurent_engine.text import TextInput


def batch(size: int, draw: torch.Generator) -> Batch:
    x = models.batch("sd15", size, draw)
    tensors: dict[str, Any] = {**x, "weight": torch.rand(size, generator=draw)}
    text = TextInput((None,), (tensors.pop("text"),))
    return Batch(**tensors, text=text)


@settings(deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 7))
def test_pieces_mean_what_their_batches_mean(sizes: list[int], most: int) -> None:
    """Each picture's share in the mean over pieces is its share in the mean over batches; so are the losses said."""
    draw = torch.Generator().manual_seed(len(sizes))
    batches = [batch(size, draw) for size in sizes]
    batches = [replace(one, weight=one.weight.double()) for one in batches]
    pieces, owners = cut(batches, most)
    assert max(len(one.mean) for one in pieces) <= max(most, 0)
    assert torch.equal(torch.cat([one.mean for one in pieces]), torch.cat([one.mean for one in batches]))
    each = [torch.rand(size, generator=draw, dtype=torch.float64) for size in sizes]
    wanted = torch.stack([(one * of.weight).mean() for one, of in zip(each, batches, strict=True)])
    rows = torch.cat(each).split([len(one.mean) for one in pieces])
    losses = torch.stack([(one * of.weight).mean() for one, of in zip(rows, pieces, strict=True)])
    assert torch.allclose(losses.mean(), wanted.mean())
    assert torch.allclose(gathered(losses, owners), wanted)


class Shelf(FastStepper):
    """The fast step on a device that holds ``room`` pictures, fewer unless blocks are computed twice."""

    room = 4

    def step(self, batches: Any, rates: Any) -> torch.Tensor:
        self._crowd(batches)
        return super().step(batches, rates)

    def rehearse(self, batches: Any) -> None:
        self._crowd(batches)
        super().rehearse(batches)

    def _crowd(self, batches: Any) -> None:
        with undoing(self.core.forget):
            for one in batches:
                self.core.micro(self.inputs(one))  # gradients of a step that fails must not stay
                if len(one.mean) > self.room - (self.core.recompute.what != "blocks"):
                    raise torch.OutOfMemoryError("CUDA out of memory.")
        self.core.forget()


def stepper(kind: type[FastStepper]) -> FastStepper:
    unet = models.unet("sd15")
    layers = tuple(Layer(UNET, site.name, site.key, 4, 2.0) for site in models.sites(unet))
    parts: Any = Parts(unet)
    process: Diffusion = models.process()
    made = kind(
        parts, Plan((Group(UNET, 1e-2, layers),)), process, Hyper(), switches=Switches.parse("stacked"),
        clip_skip=None, accumulate=False,
    )  # fmt: skip
    made.core.bank.initialise(torch.Generator().manual_seed(0))
    return made


class Parts:
    """What the fast step asks of a base."""

    vae_scale = 0.18215

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.text_encoders: list[Any] = []


@pytest.mark.parametrize("room", often((4, 2, 1), [4, 1]))
def test_a_device_that_is_too_small_learns_the_same(room: int) -> None:
    plain, small = stepper(FastStepper), stepper(Shelf)
    assert isinstance(small, Shelf)
    small.room = room
    told: list[str] = []
    fitting = FittingStepper(small, told.append)
    for index in range(4):
        drawn = batch(5, torch.Generator().manual_seed(index))
        assert torch.allclose(fitting.step([drawn], [1e-2]), plain.step([drawn], [1e-2]), rtol=1e-5)
    mine, theirs = (torch.cat([one.flatten() for one in each.adapters().values()]) for each in (small, plain))
    assert (mine - theirs).norm() / theirs.norm() < 1e-4  # AdamW enlarges the rounding of tiny gradients
    assert "3 at a time" in told[0] and "The result is the same" in told[0]
    assert (small.core.recompute.what == "blocks") == (room == 1)


def test_what_a_rehearsal_has_found_out_holds_for_every_step() -> None:
    """The largest batch is tried before the first step: nothing is learnt by it, and no step has to give way later."""
    small, plain = stepper(Shelf), stepper(FastStepper)
    told: list[str] = []
    fitting = FittingStepper(small, told.append)
    before = {name: one.clone() for name, one in small.adapters().items()}
    fitting.rehearse([batch(7, torch.Generator().manual_seed(9))])
    assert len(told) == 2 and "2 at a time" in told[1]
    assert all(torch.equal(one, before[name]) for name, one in small.adapters().items())
    for size in (5, 7, 2):
        drawn = batch(size, torch.Generator().manual_seed(size))
        assert torch.allclose(fitting.step([drawn], [1e-2]), plain.step([drawn], [1e-2]), rtol=1e-5)
    assert len(told) == 2


def test_a_rehearsal_leaves_some_memory_over() -> None:
    """A step that fits, with next to nothing left, is taken in smaller pieces from the start."""
    left = iter([0, 10 << 20, 1 << 30])
    told: list[str] = []
    FittingStepper(stepper(FastStepper), told.append, free=lambda: next(left)).rehearse(
        [batch(4, torch.Generator().manual_seed(0))]
    )
    assert [one.split(":")[1].split(" are")[0] for one in told] == [" 2 at a time", " 1 at a time"]


def test_a_device_that_holds_no_picture_is_an_error() -> None:
    small = stepper(Shelf)
    assert isinstance(small, Shelf)
    small.room = 0
    before = {name: one.clone() for name, one in small.adapters().items()}
    told: list[str] = []
    with pytest.raises(NoMemory, match="CUDA out of memory"):
        FittingStepper(small, told.append).step([batch(2, torch.Generator().manual_seed(0))], [1e-2])
    assert all(torch.equal(one, before[name]) for name, one in small.adapters().items())
    assert [one.split(":")[0] for one in told] == [
        "2 pictures of this size do not fit into memory at once",
        *["One picture of this size does not fit into memory"] * 2,
    ]
