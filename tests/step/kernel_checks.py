"""Each kernel against torch in float64, run by Triton's interpreter.

``TRITON_INTERPRET=1 python -m tests.step.kernel_checks layer_norms linears``: a process of its own,
because Triton decides at import whether it interprets. Prints one JSON object a check.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial

import torch
from tests.step import models
from tests.step.plain import Plain

from gpurent_engine.step.core import Core, TrainedText
from gpurent_engine.step.kernels import adamw as adamw_kernel
from gpurent_engine.step.kernels import backend
from gpurent_engine.step.kernels.groupnorm import group_norm, plain_group_norm
from gpurent_engine.step.kernels.layernorm import add_norm, plain_add_norm
from gpurent_engine.step.kernels.pointwise import add, geglu, pack, plain_geglu
from gpurent_engine.step.linear import Linear
from gpurent_engine.step.objective import Objective
from gpurent_engine.step.rows import as_rows, widened, with_room
from gpurent_engine.step.switches import Switches
from gpurent_engine.step.update import Hyper

Errors = dict[str, float]


def off(mine: torch.Tensor | None, theirs: torch.Tensor | None) -> float:
    assert mine is not None
    assert theirs is not None
    return float((mine.double() - theirs.double()).norm() / theirs.double().norm())


def normal(*shape: int, seed: int, wide: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * wide


def frozen(norm: torch.nn.GroupNorm | torch.nn.LayerNorm) -> None:
    norm.weight.data = normal(*norm.weight.shape, seed=11) * 0.5 + 1
    norm.bias.data = normal(*norm.bias.shape, seed=12) * 0.5
    norm.requires_grad_(False)


def group_norms() -> Iterator[tuple[str, Errors]]:
    cases = (
        (2, 64, 0, 37, 29, 32, True, True, 0),
        (2, 40, 0, 5, 7, 8, True, True, 0),
        (1, 320, 0, 6, 6, 32, True, False, 16),
        (2, 96, 0, 9, 4, 32, False, False, 24),
        (1, 64, 32, 8, 5, 8, True, True, 0),
        (2, 32, 96, 3, 3, 32, True, False, 8),
    )
    for n, c1, c2, height, width, groups, act, shifted, room in cases:
        norm = torch.nn.GroupNorm(groups, c1 + c2)
        frozen(norm)
        x = (normal(n, height, width, c1, seed=1, wide=2) + 0.5).requires_grad_()
        skip = (normal(n, height, width, c2, seed=2) - 0.3).requires_grad_() if c2 else None
        shift = normal(n, c1 + c2, seed=3).requires_grad_() if shifted else None
        inputs = [one for one in (x, skip, shift) if one is not None]
        y, again, skip_again = group_norm(x, norm, act=act, shift=shift, skip=skip, room=room)
        d, p1 = normal(*y.shape, seed=4), normal(*x.shape, seed=5)
        outs, grads = [y, again], [d, p1]
        if skip_again is not None:
            outs.append(skip_again)
            grads.append(normal(*skip_again.shape, seed=6))
        found = torch.autograd.grad(outs, inputs, grads)
        exact = [one.detach().double().requires_grad_() for one in inputs]
        names = ("x", *(["skip"] if c2 else []), *(["shift"] if shifted else []))
        named: dict[str, torch.Tensor] = dict(zip(names, exact, strict=True))
        twin = plain_group_norm(named["x"], norm.double(), act=act, shift=named.get("shift"), skip=named.get("skip"))
        outs2 = [twin, named["x"] * 1] + ([named["skip"] * 1] if c2 else [])
        wanted = torch.autograd.grad(outs2, exact, [g.double() for g in grads])
        errors: Errors = {"forward": off(y, twin)}
        errors |= {name: off(a, b) for name, a, b in zip(named, found, wanted, strict=True)}
        errors["room"] = 0.0 if (widened(as_rows(y), room) is not None) == bool(room) else 1.0
        norm.float()
        yield f"group norm of {n}x{height}x{width}x{c1}+{c2}, {groups} groups, act {act}, shift {shifted}", errors


def layer_norms() -> Iterator[tuple[str, Errors]]:
    for columns, added, room, back_room in ((40, True, 8, 16), (320, True, 0, 0), (768, False, 16, 8)):
        norm = torch.nn.LayerNorm(columns)
        frozen(norm)
        x = normal(2, 5, columns, seed=1).requires_grad_()
        y = normal(2, 5, columns, seed=2).requires_grad_() if added else None
        inputs = [x] if y is None else [x, y]
        s, n = add_norm(x, y, norm, room=room, back_room=back_room)
        ds, dn = normal(*s.shape, seed=3), normal(*n.shape, seed=4)
        found = torch.autograd.grad([s, n], inputs, [ds, dn])
        exact = [one.detach().double().requires_grad_() for one in inputs]
        s2, n2 = plain_add_norm(exact[0], exact[1] if added else None, norm.double())
        wanted = torch.autograd.grad([s2 * 1, n2], exact, [ds.double(), dn.double()])
        errors = {"sum": off(s, s2), "norm": off(n, n2), "x": off(found[0], wanted[0])}
        errors["room"] = 0.0 if (widened(as_rows(n), room) is not None) == bool(room) else 1.0
        errors["back room"] = 0.0 if (widened(as_rows(found[0]), back_room) is not None) == bool(back_room) else 1.0
        yield f"layer norm of {columns}, added {added}", errors


def pointwise() -> Iterator[tuple[str, Errors]]:
    for d, room, back_room in ((48, 0, 0), (300, 16, 24)):
        h = normal(3, 7, 2 * d, seed=1).requires_grad_()
        out = geglu(h, room=room, back_room=back_room)
        g = normal(*out.shape, seed=2)
        (dh,) = torch.autograd.grad(out, h, g)
        exact = h.detach().double().requires_grad_()
        twin = plain_geglu(exact)
        (wanted,) = torch.autograd.grad(twin, exact, g.double())
        yield f"geglu of {d}", {"forward": off(out, twin), "gradient": off(dh, wanted)}
        x, y, bias = normal(3, 7, d, seed=3), normal(3, 7, d, seed=4), normal(d, seed=5)
        yield f"residual and bias of {d}", {"forward": off(add(x, y, bias, room=room), x + y + bias)}
    parts = tuple(normal(2, 9, 3, 8, seed=i).transpose(1, 2) for i in range(3))
    packed = pack(parts, 16)
    wanted = torch.cat([part.transpose(1, 2).flatten(2) for part in parts], dim=-1).flatten(0, 1)
    yield "packed query, key and value", {"forward": off(packed, wanted)}


def linears() -> Iterator[tuple[str, Errors]]:
    """Stacked, with room before and behind, against the plain product."""
    from gpurent_engine.step.bank import Bank, Region, Site

    for slices in (1, 3):
        bases = [torch.nn.Linear(32, 24).requires_grad_(False) for _ in range(slices)]
        weights = [base.weight.detach().clone() for base in bases]
        region = Region(tuple(Site(str(i), "m", str(i), 8, 0.5) for i in range(slices)), 32, 24)
        layer = Linear(list(bases), region, torch.zeros((), requires_grad=True), stacked=True)
        bank = Bank([region], adapters=1, device=torch.device("cpu"), dtype=torch.float32)
        bank.masters.copy_(normal(1, bank.size, seed=1))
        bank.refresh()
        x, dy = with_room((10, 32), layer.room, weights[0]), with_room((10, 24 * slices), layer.room, weights[0])
        x.copy_(normal(10, 32, seed=2))
        dy.copy_(normal(10, 24 * slices, seed=3))
        x.requires_grad_()
        y = layer(x)
        (dx,) = torch.autograd.grad(y, x, dy)
        exact = x.detach().double().requires_grad_()
        pairs = [[one.double().requires_grad_() for one in pair] for pair in bank.tensors(bank.masters).values()]
        twin = torch.cat(
            [
                exact @ w.double().t() + b.bias.double() + 0.5 * (exact @ pair[0].t()) @ pair[1].t()
                for w, b, pair in zip(weights, bases, pairs, strict=True)
            ],
            dim=1,
        )
        wanted = torch.autograd.grad(twin, [exact, *(one for pair in pairs for one in pair)], dy.double())
        mine = [one for pair in bank.tensors(bank.gradients).values() for one in pair]
        errors = {"forward": off(y, twin), "dx": off(dx, wanted[0])}
        errors["adapters"] = max(off(a, b) for a, b in zip(mine, wanted[1:], strict=True))
        errors["base"] = max(off(base.weight, w) for base, w in zip(bases, weights, strict=True))
        yield f"stacked linear layer of {slices}", errors


def updates() -> Iterator[tuple[str, Errors]]:
    """Chunks of strided mirrors, one adapter resting."""
    n, size = 2, 5000
    masters, gradients = normal(n, size, seed=1), normal(n, size, seed=2)
    moments = torch.zeros(2, n, size)
    table = torch.zeros(60, 120)
    flat = torch.zeros(n, size)
    pieces = [
        adamw_kernel.Piece(0, 4000, 0, 0, table[5:45, 10:110]),
        adamw_kernel.Piece(4000, 1000, 0, 1, flat[0, 4000:][None]),
        adamw_kernel.Piece(size, size, 1, 0, flat[1][None]),
    ]
    reference = [torch.nn.Parameter(masters[0, :4000].clone()), torch.nn.Parameter(masters[0, 4000:].clone())]
    plain = torch.optim.AdamW(
        [{"params": [p], "lr": rate} for p, rate in zip(reference, (1e-2, 1e-3), strict=True)], weight_decay=0.01
    )
    work = adamw_kernel.chunks(pieces, torch.device("cpu"))
    resting = masters[1].clone()
    for step in range(1, 4):
        for p, part in zip(reference, (gradients[0, :4000], gradients[0, 4000:]), strict=True):
            p.grad = part * 0.5
        plain.step()
        adamw_kernel.adamw(
            work,
            gradients,
            masters,
            moments,
            rates=torch.tensor([[1e-2, 1e-3]] * 2),
            factors=torch.tensor([0.5, 1.0]),
            skip=torch.tensor([0.0, 1.0]),
            corrections=torch.tensor([[1 - 0.9**step, 1 - 0.999**step]] * 2),
            betas=(0.9, 0.999),
            eps=1e-8,
            decay=0.01,
            mirrors=torch.float32,
        )
    wanted = torch.cat([p.detach() for p in reference])
    yield (
        "AdamW",
        {
            "masters": off(masters[0], wanted),
            "table": off(table[5:45, 10:110].flatten(), wanted[:4000]),
            "shadow": off(flat[0, 4000:], wanted[4000:]),
            "resting": off(masters[1], resting),
            "beyond": float(table[:5].abs().sum() + table[45:].abs().sum() + table[:, :10].abs().sum()),
        },
    )


def whole_steps(family: str, level: str, steps: int = 1) -> Iterator[tuple[str, Errors]]:
    """A text encoder, convolutions and attention, every kernel on, against peft."""
    width = {"cross_attention_dim": 24}
    unet, encoder = models.unet(family, **width), models.text_encoder()
    sites = [*models.sites(unet, rank=8), *models.sites(unet, endings=("conv1", "time_emb_proj"))]
    sites += models.sites(encoder, "te", models.TEXT, rank=8)
    plain = Plain(
        unet,
        sites,
        encoders={"te": encoder},
        texts={"te": lambda model, ids: (model(ids).last_hidden_state, None)},
    )
    stepper = Core(
        unet,
        sites,
        objective=Objective(models.process(), 0.18215),
        hyper=Hyper(),
        switches=Switches.parse(level),
        texts=[TrainedText(encoder, "te")],
    )
    stepper.bank.load(plain.start())
    draw = torch.Generator().manual_seed(7)
    errors: Errors = {}
    for step in range(steps):
        x = models.batch(family, 2, draw, ids=("te",), edge=4)
        theirs, mine = plain.step([x]), stepper.micro(x)
        errors[f"loss {step}"] = off(mine, theirs)
        got = stepper.bank.tensors(stepper.bank.gradients)
        flat = [torch.cat([one.flatten() for key in plain.last for one in side[key]]) for side in (got, plain.last)]
        errors[f"gradients {step}"] = off(*flat)
        stepper.update([[1e-2]])
    yield f"whole steps, {family}, {level}", errors


CHECKS: dict[str, Callable[[], Iterator[tuple[str, Errors]]]] = {
    "group_norms": group_norms, "layer_norms": layer_norms, "pointwise": pointwise, "linears": linears,
    "updates": updates, "whole_kernels": partial(whole_steps, "sd15", "kernels"),
    "whole_stacked": partial(whole_steps, "sdxl", "stacked", 2),
    "whole_feed_forward": partial(whole_steps, "sd15", "stacked+feed-forward"),
}  # fmt: skip

if __name__ == "__main__":
    assert backend.INTERPRETED, "set TRITON_INTERPRET=1"
    torch.set_num_threads(1)
    for group in sys.argv[1:]:
        try:
            for name, errors in CHECKS[group]():
                print(json.dumps({"check": name, "group": group, "errors": errors}), flush=True)
        except Exception:  # noqa: BLE001
            print(json.dumps({"check": group, "group": group, "raised": traceback.format_exc()}), flush=True)
