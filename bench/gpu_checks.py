"""Is the fast step right on this GPU? ``python -m bench.gpu_checks`` prints one JSON line a check.

The models are tiny ones of the real architectures in float32 unless a check says otherwise. On a CPU everything runs
that needs no graph, which tests the checks themselves.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tests.step import models
from tests.step.plain import Plain, Values

from gpurent_engine.bench import measure
from gpurent_engine.bench.base import Draws, build
from gpurent_engine.bench.options import Row
from gpurent_engine.device import deterministic
from gpurent_engine.diffusion import diffusion
from gpurent_engine.distributed import Group
from gpurent_engine.step.bank import Site
from gpurent_engine.step.core import Core, TrainedText
from gpurent_engine.step.fast import FastStepper
from gpurent_engine.step.kernels.backend import kernels
from gpurent_engine.step.kernels.groupnorm import group_norm
from gpurent_engine.step.kernels.layernorm import add_norm
from gpurent_engine.step.kernels.pointwise import add, geglu
from gpurent_engine.step.objective import Objective
from gpurent_engine.step.switches import Switches
from gpurent_engine.step.update import Hyper

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
GRAPH = "+graph"
Found = Iterator[tuple[str, dict[str, float], float]]
"""Name, errors, and the largest of them that is allowed."""


def process() -> Any:
    return diffusion(models.process().signal.square().cpu(), "epsilon", DEVICE)


def core(unet: Any, sites: Sequence[Site], level: str, **settings: Any) -> Core:
    return Core(
        unet,
        sites,
        objective=Objective(process(), 0.18215),
        hyper=Hyper(),
        switches=Switches.parse(level),
        **settings,
    )


def to_device(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one.to(DEVICE) for name, one in x.items()}


def off(mine: Values, theirs: Values) -> float:
    square = sum(float((a - b).square().sum()) for key in theirs for a, b in zip(mine[key], theirs[key], strict=True))
    return float((square / sum(float(b.square().sum()) for pair in theirs.values() for b in pair)) ** 0.5)


def relative(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((mine.double() - theirs.double()).norm() / theirs.double().norm())


def compare(
    plain: Plain, mine: Core, draw: Callable[[], list[dict[str, torch.Tensor]]], steps: int
) -> dict[str, float]:
    """Largest difference of losses, of the first step's gradients and of the final adapters."""
    worst = {"loss": 0.0, "gradients": 0.0}
    for step in range(steps):
        batches = draw()
        theirs = plain.step(batches)
        losses = torch.cat([mine.micro(x, 1 / len(batches)) for x in batches])
        worst["loss"] = max(worst["loss"], float((losses - theirs).abs().max() / theirs.abs().max()))
        if step == 0:
            total = mine.updater.total if mine.updater.accumulate else mine.bank.gradients
            assert total is not None
            worst["gradients"] = off(mine.bank.tensors(total), plain.last)
        mine.update([[1e-2]])
    worst["adapters"] = off(mine.bank.tensors(mine.bank.masters), plain.values())
    return worst


def levels() -> Found:
    """Text encoder and convolutions included; graphs see each shape three times or more."""
    yield from _levels((("sd15", "stacked+graph"), ("sdxl", "stacked+graph"), ("sdxl", "merged+graph")))


def more_levels() -> Found:
    """The other combinations."""
    yield from _levels((("sd15", "kernels"), ("sdxl", "stacked+graph+blocks"), ("sd15", "stacked+feed-forward")))


def _levels(cases: Sequence[tuple[str, str]]) -> Found:
    for family, level in cases:
        unet, encoder = models.unet(family).to(DEVICE), models.text_encoder().to(DEVICE)
        sites = [*models.sites(unet, rank=8), *models.sites(unet, endings=models.CONVOLUTIONS)]
        sites += models.sites(encoder, "te", models.TEXT, rank=8)
        plain = Plain(
            unet,
            sites,
            encoders={"te": encoder},
            texts={"te": lambda model, ids: (model(ids).last_hidden_state, None)},
        )
        mine = core(unet, sites, level, texts=[TrainedText(encoder, "te")])
        mine.bank.load(plain.start())
        draw = torch.Generator().manual_seed(7)
        yield (
            f"{family} {level}",
            compare(plain, mine, lambda f=family, g=draw: [to_device(models.batch(f, 2, g, ids=("te",)))], 6),
            2e-3,
        )


def several() -> Found:
    """Two shapes in turn, accumulation, and adapters that are packed, each under graphs."""
    unet = models.unet("sd15").to(DEVICE)
    sites = models.sites(unet, rank=8)
    for name, batches in (
        ("two shapes in turn", [(2, 8), (1, 8), (2, 12)]),
        ("two micro-batches a step", [(2, 8), (2, 8)]),
    ):
        together = "micro" in name
        plain = Plain(unet, sites)
        mine = core(copy.deepcopy(unet), sites, "stacked" + GRAPH, accumulate=together)
        mine.bank.load(plain.start())
        draw = torch.Generator().manual_seed(3)
        turns = itertools.cycle(batches)

        def one(turns: Any = turns, draw: torch.Generator = draw) -> dict[str, torch.Tensor]:
            size, edge = next(turns)
            return to_device(models.batch("sd15", size, draw, edge=edge))

        count = len(batches) if together else 1
        yield name, compare(plain, mine, lambda o=one, c=count: [o() for _ in range(c)], 12), 2e-3
    alone = [Plain(unet, sites) for _ in range(2)]
    packed = core(copy.deepcopy(unet), sites, "kernels" + GRAPH, adapters=2)
    for i, plain in enumerate(alone):
        packed.bank.load(plain.start(seed=i), i)
    draw = torch.Generator().manual_seed(3)
    worst = 0.0
    for _ in range(6):
        x = to_device(models.batch("sd15", 4, draw))
        losses = packed.micro(x)
        packed.update([[1e-2], [1e-2]])
        theirs = [
            plain.step([{key: value[2 * i : 2 * i + 2] for key, value in x.items()}]) for i, plain in enumerate(alone)
        ]
        worst = max(worst, relative(losses, torch.cat(theirs)))
    yield "two adapters packed", {"loss": worst}, 2e-3


def half_precision() -> Found:
    """Kernels in bf16 against torch in float32, at sizes of SDXL; NaN never passes."""
    dtype = torch.bfloat16

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=DEVICE, dtype=dtype).requires_grad_()

    edge = 64 if CUDA else 6
    for c1, c2 in ((320, 0), (640, 320), (1280, 640)):
        norm = torch.nn.GroupNorm(32, c1 + c2, device=DEVICE, dtype=dtype).requires_grad_(False)
        x, skip = normal(2, edge, edge, c1), normal(2, edge, edge, c2) if c2 else None
        shift, d = normal(2, c1 + c2), normal(2, edge, edge, c1 + c2).detach()
        inputs = [one for one in (x, skip, shift) if one is not None]
        y, _, _ = group_norm(x, norm, act=True, shift=shift, skip=skip)
        found = [y, *torch.autograd.grad(y, inputs, d)]
        exact = [one.detach().float().requires_grad_() for one in inputs]
        with kernels(False):
            y, _, _ = group_norm(exact[0], norm.float(), act=True, shift=exact[-1], skip=exact[1] if c2 else None)
        wanted = [y, *torch.autograd.grad(y, exact, d.float())]
        yield (
            f"group norm {c1}+{c2}",
            {str(i): relative(a, b) for i, (a, b) in enumerate(zip(found, wanted, strict=True))},
            1e-2,
        )
    for columns in (320, 640, 1280):
        layer = torch.nn.LayerNorm(columns, device=DEVICE, dtype=dtype).requires_grad_(False)
        x, y, ds, dn = (normal(2, 1024, columns) for _ in range(4))
        outs = add_norm(x, y, layer, room=32, back_room=32)
        found = [*outs, *torch.autograd.grad(outs, [x, y], [ds.detach(), dn.detach()])]
        a, b = (one.detach().float().requires_grad_() for one in (x, y))
        with kernels(False):
            outs = add_norm(a, b, layer.float())
        wanted = [*outs, *torch.autograd.grad(outs, [a, b], [ds.detach().float(), dn.detach().float()])]
        yield (
            f"layer norm {columns}",
            {str(i): relative(p, q) for i, (p, q) in enumerate(zip(found, wanted, strict=True))},
            1e-2,
        )
    h, d, bias = normal(512, 2 * 2560), normal(512, 2560).detach(), normal(2560).detach()
    out = geglu(h, room=32, back_room=64)
    found = [out, *torch.autograd.grad(out, h, d), add(out.detach(), d, bias, room=32)]
    precise = h.detach().float().requires_grad_()
    with kernels(False):
        twin = geglu(precise)
    wanted = [twin, *torch.autograd.grad(twin, precise, d.float()), out.detach().float() + d.float() + bias.float()]
    yield (
        "geglu and addition",
        {str(i): relative(p, q) for i, (p, q) in enumerate(zip(found, wanted, strict=True))},
        1e-2,
    )


def graph_in_bf16() -> Found:
    """The real SD 1.5, bf16: the same batches through a graph and eagerly. Flash attention's backward is not exact."""
    row = Row("sd15", "stacked", 2, tiny=not CUDA)
    losses, gradients = [], []
    for level in ("stacked", "stacked" + GRAPH, "merged"):
        torch.manual_seed(0)
        model = build(row, DEVICE, torch.bfloat16 if CUDA else torch.float32)
        mine, step = measure.fast_step(Row(**{**row.__dict__, "level": level}), model, process())
        draws = Draws(row, model)
        losses.append(torch.cat([step(draws) for _ in range(4)]))
        gradients.append(mine.bank.tensors(mine.bank.gradients))
        del model, mine, step
        measure.release()
    yield (
        "graph and eager",
        {"loss": relative(losses[1], losses[0]), "gradients": off(gradients[1], gradients[0])},
        5e-2,
    )
    yield (
        "kernels and torch",
        {"loss": relative(losses[2], losses[0]), "gradients": off(gradients[2], gradients[0])},
        1e-1,
    )


def resume() -> Found:
    """Eight steps, and four, a state, a fresh stepper and four more: bit for bit where every sum has an order.

    Otherwise attention's backward adds in any order, so that a run differs from its own repetition; what is resumed may
    not differ more than that does, within a factor for chance.
    """
    for family in ("sd15", "sdxl"):
        straight, resumed, _ = _resumed(family)
        again = _resumed(family)[0]
        repetition = _apart(again, straight)
        found = {"resumed": _apart(resumed, straight), "repeated": repetition}
        yield f"{family}, as fast as it can", found, max(1e-6, 10 * repetition)
    deterministic()
    try:
        for family in ("sd15", "sdxl"):
            straight, resumed, losses = _resumed(family)
            yield f"{family}, deterministic", {"resumed": _apart(resumed, straight), "loss": losses}, 0.0
    finally:
        torch.use_deterministic_algorithms(False)


def _apart(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max(float((mine[name] - one).abs().max() / one.abs().max()) for name, one in theirs.items())


def _resumed(family: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], float]:
    """Adapters of a straight and of a resumed run, and how far their last losses are apart."""

    def fresh() -> tuple[FastStepper, Draws]:
        return _stepper(family, "stacked" + GRAPH)

    straight, draws = fresh()
    rates = _rates(draws)
    expected = [straight.step([draws.batch()], rates) for _ in range(8)]
    first, draws = fresh()
    for _ in range(4):
        first.step([draws.batch()], rates)
    state = first.state()
    saved = type(state)({name: one.detach().cpu().clone() for name, one in state.tensors.items()}, state.scalars)
    second, _ = fresh()
    second.restore(saved)
    losses = [second.step([draws.batch()], rates) for _ in range(4)]
    mine, theirs = (
        {name: one.detach().clone() for name, one in stepper.adapters().items()} for stepper in (second, straight)
    )
    return theirs, mine, float((losses[-1] - expected[-1]).abs().max())


def _stepper(family: str, level: str, *, accumulate: bool = False) -> tuple[FastStepper, Draws]:
    """A tiny base with trained text encoders, always the same, and the batches that it is trained with."""
    row = Row(family, level, 2, tiny=True, text=True)
    torch.manual_seed(0)
    model = build(row, DEVICE, torch.float32)
    stepper = FastStepper(
        model.parts,
        model.plan,
        process(),
        Hyper(),
        switches=Switches.parse(level),
        clip_skip=None,
        accumulate=accumulate,
    )
    stepper.core.bank.initialise(torch.Generator().manual_seed(1))
    return stepper, Draws(row, model)


def _rates(draws: Draws) -> list[float]:
    return [1e-2, 1e-3, 1e-3][: 1 + len(draws.model.parts.text_encoders)]


def beside_graphs() -> Found:
    """A rehearsal, held-out losses and sample pictures between steps that are graphs: each right, none leaves a trace.

    What they give is compared with the step without a graph, and the losses with a training that is left alone.
    """
    for family in ("sd15", "sdxl"):
        watched, draws = _stepper(family, "stacked" + GRAPH)
        bare, second = _stepper(family, "stacked")
        alone, third = _stepper(family, "stacked")
        held, rates = draws.batch(), _rates(draws)
        second.batch()
        third.batch()
        watched.rehearse([held])
        worst = {"loss": 0.0, "examined": 0.0, "predicted": 0.0}
        for _ in range(5):
            ours, theirs = watched.step([draws.batch()], rates), alone.step([third.batch()], rates)
            bare.step([second.batch()], rates)
            worst["loss"] = max(worst["loss"], relative(ours, theirs))
            worst["examined"] = max(worst["examined"], relative(watched.examine([held]), bare.examine([held])))
            pictures = [one.predict(held.mean, held.times, held.text, held.sizes) for one in (watched, bare)]
            worst["predicted"] = max(worst["predicted"], relative(*pictures))
        yield f"{family} watched", worst, 2e-3


def group_of_one() -> Found:
    """Gradients that are summed over a process group (NCCL on a GPU) of one process are what they were."""
    backend = "nccl" if CUDA else "gloo"
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # public, but torch's stub does not say so
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        shared, draws = _stepper("sd15", "stacked" + GRAPH, accumulate=True)
        shared.core.reduce = Group(0, 2).sum_flat  # of a size that makes it ask the process group
        alone, again = _stepper("sd15", "stacked" + GRAPH, accumulate=True)
        worst = 0.0
        for _ in range(5):
            losses = shared.step([draws.batch()], _rates(draws)), alone.step([again.batch()], _rates(draws))
            worst = max(worst, relative(*losses))
    finally:
        torch.distributed.destroy_process_group()
    yield f"one process by {backend}", {"loss": worst}, 2e-3


def load_back() -> Found:
    """diffusers loads what was trained, and predicts what the fast step predicts."""
    for family in ("sd15", "sdxl"):
        unet = models.unet(family).to(DEVICE)
        fresh = copy.deepcopy(unet)
        sites = models.sites(unet, rank=8)
        mine = core(unet, sites, "stacked" + GRAPH)
        mine.bank.initialise(torch.Generator().manual_seed(1))
        draw = torch.Generator().manual_seed(7)
        for _ in range(5):
            mine.micro(to_device(models.batch(family, 2, draw)))
            mine.update([[1e-2]])
        trained = mine.bank.tensors(mine.bank.masters)
        state: dict[str, torch.Tensor] = {}
        alphas: dict[str, float] = {}
        for site in sites:
            down, up = trained[site.key]
            state[f"{site.name}.lora_A.weight"], state[f"{site.name}.lora_B.weight"] = (
                down.contiguous(),
                up.contiguous(),
            )
            alphas[f"{site.name}.alpha"] = site.scale * site.rank
        fresh.load_lora_adapter(
            {f"unet.{name}": one for name, one in state.items()},
            prefix="unet",
            network_alphas={f"unet.{name}": alpha for name, alpha in alphas.items()},
        )
        x = to_device(models.batch(family, 2, draw))
        noisy, _ = mine.objective.noisy(x)
        extra = {}
        if "sizes" in x:
            extra = {"added_cond_kwargs": {"text_embeds": x["pooled"], "time_ids": x["sizes"]}}
        with torch.no_grad():
            theirs = fresh(noisy.permute(0, 3, 1, 2), x["times"], x["text"], return_dict=False, **extra)[0]
            ours = mine.unet(noisy.contiguous(), x["times"], x["text"], x.get("pooled"), x.get("sizes"))
        yield f"diffusers with the trained {family}", {"prediction": relative(ours.permute(0, 3, 1, 2), theirs)}, 1e-3


def out_of_memory() -> Found:
    """Too large a batch says so, and a smaller one runs afterwards in the same process."""
    if not CUDA:
        return
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    torch.cuda.set_per_process_memory_fraction(min(1.0, 6 / total))
    try:
        large = measure.attempt(Row("sd15", "stacked" + GRAPH, 16, steps=2), DEVICE)
        small = measure.attempt(Row("sd15", "stacked" + GRAPH, 1, steps=2), DEVICE)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    yield "out of memory", {"large": float("error" not in large), "small": float("error" in small)}, 0.5


CHECKS = (levels, half_precision, graph_in_bf16, several, load_back, beside_graphs, group_of_one, resume,
          out_of_memory, more_levels)  # fmt: skip


def run(say: Callable[[dict[str, Any]], None], deadline: float = float("inf")) -> bool:
    """Run all checks until ``deadline`` (``time.monotonic``); True if all that ran passed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, so before its first product
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    good = True
    for check in CHECKS:
        if time.monotonic() > deadline:
            say({"check": check.__name__, "skipped": "deadline"})
            continue
        begun = time.monotonic()
        try:
            for name, errors, allowed in check():
                passed = all(error <= allowed for error in errors.values())  # NaN is not
                good = good and passed
                say({"check": f"{check.__name__}: {name}", "ok": passed, **errors, "s": time.monotonic() - begun})
                begun = time.monotonic()
                if begun > deadline:
                    say({"check": check.__name__, "skipped": "the rest, deadline"})
                    break
        except Exception as error:  # noqa: BLE001  # a broken check must not hide the others
            good = False
            say({"check": check.__name__, "ok": False, "error": f"{type(error).__name__}: {str(error)[:300]}",
                 "where": traceback.format_exc()[-1500:]})  # fmt: skip
        measure.release()
    return good


if __name__ == "__main__":
    run(lambda found: print(json.dumps(found), flush=True))
