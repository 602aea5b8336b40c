"""No part of the fast step changes what is learnt: losses and gradients are those of diffusers and peft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from tests.step import models
from tests.step.plain import Batch, Plain, Values
from tests.thorough import often

from gpurent_engine.step.bank import Site
from gpurent_engine.step.core import Core, TrainedText
from gpurent_engine.step.objective import Objective
from gpurent_engine.step.switches import Switches
from gpurent_engine.step.update import Hyper

LEVELS = ("merged", "stacked", "merged+blocks", "stacked+feed-forward")
FAMILIES = ("sd15", "sd2", "sdxl")
USUAL = (*product(["sd15"], LEVELS), ("sd2", "merged+blocks"), ("sdxl", "stacked"))
"""Every level, and every family."""
TOLERANCE = 1e-5
AFTER_ADAM = 1e-4
"""Of trained numbers: AdamW divides by the gradient's size, and so enlarges the rounding of tiny gradients."""


def fast(
    unet: Any,
    sites: Sequence[Site],
    level: str,
    start: Values,
    *,
    prediction: str = "epsilon",
    texts: Sequence[TrainedText] = (),
    groups: int = 1,
    accumulate: bool = False,
    hyper: Hyper | None = None,
) -> Core:
    stepper = Core(
        unet,
        sites,
        objective=Objective(models.process(prediction), 0.18215),
        hyper=hyper or Hyper(),
        switches=Switches.parse(level),
        texts=texts,
        groups=groups,
        accumulate=accumulate,
    )
    stepper.bank.load(start)
    return stepper


def off(mine: Values, theirs: Values) -> float:
    """Distance of all numbers together, relative to theirs."""
    square = sum(float((a - b).square().sum()) for key in theirs for a, b in zip(mine[key], theirs[key], strict=True))
    whole = sum(float(b.square().sum()) for pair in theirs.values() for b in pair)
    return float((square / whole) ** 0.5)


def same(
    plain: Plain,
    stepper: Core,
    draw: Callable[[torch.Generator], list[Batch]],
    *,
    steps: int = 8,
    rates: Sequence[float] = (1e-2,),
) -> None:
    """Both train on the same batches; gradients of the first step, all losses and the final adapters agree."""
    generator = torch.Generator().manual_seed(7)
    for step in range(steps):
        batches = draw(generator)
        theirs = plain.step(batches)
        mine = torch.cat([stepper.micro(x, 1 / len(batches)) for x in batches])
        assert torch.allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE), f"step {step}: {mine} and {theirs}"
        if step == 0:
            total = stepper.updater.total if stepper.updater.accumulate else stepper.bank.gradients
            assert total is not None
            assert off(stepper.bank.tensors(total), plain.last) < TOLERANCE
        stepper.update([list(rates)])
    assert off(stepper.bank.tensors(stepper.bank.masters), plain.values()) < AFTER_ADAM


@pytest.mark.parametrize(("family", "level"), often(product(FAMILIES, LEVELS), USUAL))
def test_every_level_learns_what_peft_learns(family: str, level: str) -> None:
    unet = models.unet(family)
    sites = models.sites(unet)
    plain = Plain(unet, sites)
    same(plain, fast(unet, sites, level, plain.start()), lambda g: [models.batch(family, 2, g)])


@pytest.mark.parametrize("level", ("merged", "stacked"))
def test_several_micro_batches_make_one_step(level: str) -> None:
    unet = models.unet("sd15")
    sites = models.sites(unet)
    plain = Plain(unet, sites)
    stepper = fast(unet, sites, level, plain.start(), accumulate=True)
    same(plain, stepper, lambda g: [models.batch("sd15", 2, g), models.batch("sd15", 1, g)], steps=4)


@pytest.mark.parametrize("prediction", ("epsilon", "v_prediction"))
def test_weighted_samples_and_predictions_are_those_of_the_plain_loop(prediction: str) -> None:
    unet = models.unet("sd2")
    sites = models.sites(unet)
    plain = Plain(unet, sites, prediction=prediction)
    stepper = fast(unet, sites, "merged", plain.start(), prediction=prediction)

    def draw(generator: torch.Generator) -> list[Batch]:
        x = models.batch("sd2", 3, generator)
        x["weight"] = models.process().min_snr(x["times"], 5.0)
        return [x]

    same(plain, stepper, draw, steps=4)


@pytest.mark.parametrize("level", ("merged", "stacked"))
@pytest.mark.parametrize("family", ("sd15", "sdxl"))
def test_convolutions_learn_what_peft_learns(family: str, level: str) -> None:
    unet = models.unet(family)
    sites = [
        *models.sites(unet, rank=8),
        *models.sites(unet, endings=models.CONVOLUTIONS, rank=4, scale=0.25),
    ]
    plain = Plain(unet, sites)
    same(plain, fast(unet, sites, level, plain.start()), lambda g: [models.batch(family, 2, g)], steps=4)


def test_adapters_on_some_layers_only_and_of_several_ranks() -> None:
    unet = models.unet("sdxl")
    queries = models.sites(unet, endings=("to_q",), rank=8, scale=1.0)
    values = models.sites(unet, endings=("to_v",), rank=2, scale=0.3)
    plain = Plain(unet, [*queries, *values])
    stepper = fast(unet, [*queries, *values], "stacked", plain.start())
    same(plain, stepper, lambda g: [models.batch("sdxl", 2, g)], steps=4)


@pytest.mark.parametrize("level", ("merged", "stacked"))
def test_a_text_encoder_trains_at_its_own_rate(level: str) -> None:
    unet, encoder = models.unet("sd15"), models.text_encoder()
    sites = [*models.sites(unet), *models.sites(encoder, "te", models.TEXT, rank=8, group=1)]
    plain = Plain(
        unet,
        sites,
        encoders={"te": encoder},
        rates=(1e-2, 3e-3),
        texts={"te": lambda model, ids: (model(ids).last_hidden_state, None)},
    )
    stepper = fast(unet, sites, level, plain.start(), texts=[TrainedText(encoder, "te")], groups=2)
    same(plain, stepper, lambda g: [models.batch("sd15", 2, g, ids=("te",))], steps=4, rates=(1e-2, 3e-3))


def test_both_of_sdxls_text_encoders_train() -> None:
    """The first gives its second last layer; so does the second, and its projected end token goes to the UNet too."""
    unet = models.unet("sdxl", cross_attention_dim=24 + 16)
    first, second = models.text_encoder(24), models.text_encoder(16, projection=models.POOLED, act="gelu")
    sites = [*models.sites(unet)]
    for part, model, group in (("te1", first, 1), ("te2", second, 2)):
        sites += [
            site
            for site in models.sites(getattr(model, "text_model", model), part, models.TEXT, group=group)
            if part == "te2" or "layers.1" not in site.name
        ]

    def one(model: Any, ids: torch.Tensor) -> Any:
        return model(ids, output_hidden_states=True).hidden_states[-2], None

    def two(model: Any, ids: torch.Tensor) -> Any:
        found = model(ids, output_hidden_states=True)
        return found.hidden_states[-2], found.text_embeds

    plain = Plain(
        unet, sites, encoders={"te1": first, "te2": second}, texts={"te1": one, "te2": two}, rates=(1e-2, 3e-3, 1e-3)
    )
    texts = [
        TrainedText(first, "te1", layer=2, normed=False),
        TrainedText(second.text_model, "te2", layer=2, normed=False, projection=second.text_projection),
    ]
    stepper = fast(unet, sites, "stacked", plain.start(), texts=texts, groups=3)
    same(plain, stepper, lambda g: [models.batch("sdxl", 2, g, ids=("te1", "te2"))], steps=4, rates=(1e-2, 3e-3, 1e-3))


@pytest.mark.parametrize("family", ("sd15", "sdxl"))
@pytest.mark.parametrize("adapters", (2, 3))
def test_adapters_packed_over_one_base_learn_what_they_learn_alone(family: str, adapters: int) -> None:
    unet = models.unet(family)
    sites = [*models.sites(unet), *models.sites(unet, endings=("conv1",))]
    alone = [Plain(unet, sites) for _ in range(adapters)]
    packed = Core(
        unet,
        sites,
        objective=Objective(models.process(), 0.18215),
        hyper=Hyper(),
        switches=Switches.parse("stacked"),
        adapters=adapters,
    )
    for i, plain in enumerate(alone):
        packed.bank.load(plain.start(seed=i), i)
    rates = [1e-2 / (i + 1) for i in range(adapters)]
    for plain, rate in zip(alone, rates, strict=True):
        plain.optimizer.param_groups[0]["lr"] = rate
    draw = torch.Generator().manual_seed(3)
    for step in range(4):
        x = models.batch(family, 2 * adapters, draw)
        losses = packed.micro(x)
        for i, plain in enumerate(alone):
            own = {key: value[2 * i : 2 * i + 2] for key, value in x.items()}
            assert torch.allclose(losses[i], plain.step([own])[0], rtol=TOLERANCE, atol=TOLERANCE)
            if step == 0:
                assert off(packed.bank.tensors(packed.bank.gradients, i), plain.last) < TOLERANCE
        packed.update([[rate] for rate in rates])
    for i, plain in enumerate(alone):
        assert off(packed.bank.tensors(packed.bank.masters, i), plain.values()) < AFTER_ADAM


def test_an_adapter_that_rests_keeps_its_numbers_and_the_others_go_on() -> None:
    unet = models.unet("sd15")
    sites = models.sites(unet)
    packed = Core(
        unet,
        sites,
        objective=Objective(models.process(), 0.18215),
        hyper=Hyper(),
        switches=Switches.parse("merged"),
        adapters=2,
    )
    packed.bank.initialise(torch.Generator().manual_seed(0), 0)
    packed.bank.initialise(torch.Generator().manual_seed(1), 1)
    before = packed.bank.masters.clone()
    packed.updater.skip[0] = 1
    packed.micro(models.batch("sd15", 2, torch.Generator().manual_seed(2)))
    packed.update([[1e-2], [1e-2]])
    assert torch.equal(packed.bank.masters[0], before[0])
    assert not torch.equal(packed.bank.masters[1], before[1])


def test_odd_sizes_are_resampled_as_diffusers_does() -> None:
    unet = models.unet("sd15")
    sites = models.sites(unet)
    plain = Plain(unet, sites)
    same(plain, fast(unet, sites, "merged", plain.start()), lambda g: [models.batch("sd15", 2, g, edge=7)], steps=2)
