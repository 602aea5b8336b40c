"""What the parts of a step take by themselves, each as a graph of repeated calls: kernels, attention, products.

One JSON line a part: microseconds, and GB/s or TFLOP/s where that means something. Leads for the next change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpurent_engine.step.kernels.groupnorm import group_norm
from gpurent_engine.step.kernels.layernorm import add_norm
from gpurent_engine.step.kernels.pointwise import add, geglu
from gpurent_engine.step.rows import widened, with_room

Part = dict[str, Any]
REPEATS = 10
BF16 = torch.bfloat16


def attend(inputs: list[torch.Tensor]) -> torch.Tensor:
    q, k, v = (one.detach() for one in inputs)
    return F.scaled_dot_product_attention(q, k, v)


def microseconds(act: Callable[[], object]) -> float:
    """Of one call inside a graph of ``REPEATS`` calls; median of three replays."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            act()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(REPEATS):
            act()
    graph.replay()
    found = []
    for _ in range(3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(float(begin.elapsed_time(end)) * 1e3 / REPEATS)
    return sorted(found)[1]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=BF16)


def kernel_parts() -> Iterator[Part]:
    """Bytes are what must be read and written once."""
    for n, edge, c in (
        (1, 128, 320),
        (4, 128, 320),
        (4, 64, 640),
        (4, 32, 1280),
        (1, 32, 1280),
        (1, 8, 1280),
        (4, 128, 960),
    ):
        norm = torch.nn.GroupNorm(32, c, device="cuda", dtype=BF16).requires_grad_(False)
        x, d, shift = normal(n, edge, edge, c).requires_grad_(), normal(n, edge, edge, c), normal(n, c)
        size = x.numel() * 2
        us = microseconds(lambda x=x, norm=norm, shift=shift: group_norm(x.detach(), norm, act=True, shift=shift))
        yield {"part": "group norm", "shape": [n, edge, c], "us": us, "gb_s": 2 * size / us / 1e3}
        y, _, _ = group_norm(x, norm, act=True, shift=shift)
        us = microseconds(lambda y=y, x=x, d=d: torch.autograd.grad(y, x, d, retain_graph=True))
        yield {"part": "group norm backward", "shape": [n, edge, c], "us": us, "gb_s": 3 * size / us / 1e3}
    for rows, c in ((1024, 1280), (4096, 1280), (16384, 640), (4096, 320)):
        layer = torch.nn.LayerNorm(c, device="cuda", dtype=BF16).requires_grad_(False)
        x, y, ds, dn = (normal(rows, c) for _ in range(4))
        size = x.numel() * 2
        us = microseconds(lambda x=x, y=y, layer=layer: add_norm(x, y, layer, room=32))
        yield {"part": "add and layer norm", "shape": [rows, c], "us": us, "gb_s": 4 * size / us / 1e3}
        x.requires_grad_()
        outs = add_norm(x, y, layer, room=32)
        us = microseconds(lambda o=outs, x=x, ds=ds, dn=dn: torch.autograd.grad(o, [x], [ds, dn], retain_graph=True))
        yield {"part": "add and layer norm backward", "shape": [rows, c], "us": us, "gb_s": 4 * size / us / 1e3}
    for rows, c in ((1024, 5120), (4096, 5120), (16384, 2560)):
        h, d = normal(rows, 2 * c).requires_grad_(), normal(rows, c)
        us = microseconds(lambda h=h: geglu(h.detach(), room=32))
        yield {"part": "geglu", "shape": [rows, c], "us": us, "gb_s": 6 * d.numel() / us / 1e3}
        out = geglu(h, room=32, back_room=32)
        us = microseconds(lambda o=out, h=h, d=d: torch.autograd.grad(o, h, d, retain_graph=True))
        yield {"part": "geglu backward", "shape": [rows, c], "us": us, "gb_s": 10 * d.numel() / us / 1e3}
    x, y = normal(65536, 320), normal(65536, 320)
    us = microseconds(lambda: add(x, y))
    yield {"part": "addition", "shape": [65536, 320], "us": us, "gb_s": 6 * x.numel() / us / 1e3}
    us = microseconds(lambda: x.copy_(y))
    yield {"part": "torch copy", "shape": [65536, 320], "us": us, "gb_s": 4 * x.numel() / us / 1e3}


def attention_parts() -> Iterator[Part]:
    """Self- and cross-attention of SDXL and SD 1.5 by backend, forward and backward; views of merged projections."""
    cases = (
        ("sdxl", 1, 10, 4096, 4096, 64), ("sdxl", 4, 10, 4096, 4096, 64), ("sdxl", 4, 20, 1024, 1024, 64),
        ("sdxl", 1, 20, 1024, 1024, 64), ("sdxl", 4, 20, 1024, 77, 64), ("sdxl", 4, 10, 4096, 77, 64),
        ("sd15", 4, 8, 4096, 4096, 40), ("sd15", 4, 8, 1024, 1024, 80), ("sd15", 4, 8, 256, 256, 160),
        ("sd15", 4, 8, 4096, 77, 40), ("sd15", 1, 8, 4096, 4096, 40),
    )  # fmt: skip
    for family, b, heads, t, s, head in cases:
        self_attention = t == s
        qkv = normal(b, t, 3, heads, head)
        kv = normal(b, s, 2, heads, head)
        q = qkv[:, :, 0].transpose(1, 2)
        k, v = (qkv[:, :, i].transpose(1, 2) if self_attention else kv[:, :, i - 1].transpose(1, 2) for i in (1, 2))
        inputs = [one.detach().requires_grad_() for one in (q, k, v)]
        d = normal(b, t, heads, head).transpose(1, 2)
        flop = 4 * b * heads * t * s * head
        for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
            part: Part = {"part": f"attention {name[:5].lower()}", "of": family, "shape": [b, heads, t, s, head]}
            try:
                with sdpa_kernel(getattr(SDPBackend, name)):
                    us = microseconds(lambda i=inputs: attend(i))
                    o = F.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2])
                    back = microseconds(lambda o=o, i=inputs, d=d: torch.autograd.grad(o, i, d, retain_graph=True))
            except RuntimeError as error:
                yield {**part, "error": str(error)[:80]}
                continue
            yield {**part, "us": us, "tflops": flop / us / 1e6, "back_us": back, "back_tflops": 2.5 * flop / back / 1e6}


def product_parts() -> Iterator[Part]:
    """A projection with its adapter (rank 32): the frozen product alone, with the adapter added in place, stacked."""
    r = 32
    for rows, inner, outer, slices in (
        (4096, 1280, 1280, 1), (4096, 1280, 3840, 3), (4096, 1280, 10240, 1), (4096, 5120, 1280, 1),
        (16384, 640, 640, 1), (16384, 640, 5120, 1), (1024, 1280, 1280, 1), (1024, 1280, 10240, 1),
        (1024, 5120, 1280, 1),
    ):  # fmt: skip
        wide = r * slices
        table = normal(outer + wide, inner + wide)
        weight, down, up = normal(outer, inner), normal(wide, inner), normal(outer, wide)
        x, dy = with_room((rows, inner), wide, weight), with_room((rows, outer), wide, weight)
        x.normal_()
        dy.normal_()
        xw, dyw = widened(x, wide), widened(dy, wide)
        assert xw is not None
        assert dyw is not None
        dense, d, dense_dy = x.contiguous(), normal(rows, wide), dy.contiguous()
        y, dx = normal(rows, outer), normal(rows, inner)
        flop = 2 * rows * inner * outer
        found = {
            "frozen": microseconds(lambda a=dense, w=weight, y=y: torch.mm(a, w.t(), out=y)),
            "down": microseconds(lambda a=dense, w=down, d=d: torch.mm(a, w.t(), out=d)),
            "up": microseconds(lambda y=y, d=d, w=up: y.addmm_(d, w.t())),
            "stacked": microseconds(lambda a=xw, t=table, y=y, o=outer: torch.mm(a, t[:o].t(), out=y)),
            "dx_frozen": microseconds(lambda a=dense_dy, w=weight, y=dx: torch.mm(a, w, out=y)),
            "dx_up": microseconds(lambda y=dx, d=d, w=down: y.addmm_(d, w)),
            "dx_stacked": microseconds(lambda a=dyw, t=table, y=dx, i=inner: torch.mm(a, t[:, :i], out=y)),
            "grad_down": microseconds(lambda d=d, a=dense: torch.mm(d.t(), a)),
            "grad_up": microseconds(lambda a=dense_dy, d=d: torch.mm(a.t(), d)),
            "grad_d": microseconds(lambda a=dense_dy, w=up: torch.mm(a, w)),
        }
        yield {
            "part": "projection",
            "shape": [rows, inner, outer, slices],
            **found,
            "tflops": flop / found["frozen"] / 1e6,
        }
    torch.backends.cudnn.benchmark = True
    for n, edge, c, o in (
        (4, 128, 320, 320),
        (4, 64, 640, 640),
        (4, 32, 1280, 1280),
        (1, 128, 320, 320),
        (4, 64, 320, 320),
        (1, 64, 320, 320),
    ):
        x, w = normal(n, edge, edge, c).permute(0, 3, 1, 2), normal(o, 3, 3, c).permute(0, 3, 1, 2)
        us = microseconds(lambda x=x, w=w: F.conv2d(x, w, None, padding=1))
        yield {
            "part": "convolution",
            "shape": [n, edge, c, o],
            "us": us,
            "tflops": 18 * n * edge * edge * c * o / us / 1e6,
        }


def run(say: Callable[[Part], None], deadline: float) -> None:
    """All parts until ``deadline`` (``time.monotonic``)."""
    if not torch.cuda.is_available():
        say({"part": "none", "error": "needs a GPU"})
        return
    for parts in (attention_parts, product_parts, kernel_parts):
        try:
            for part in parts():
                say(part)
                if time.monotonic() > deadline:
                    say({"part": parts.__name__, "skipped": "the rest, deadline"})
                    return
        except Exception as error:  # noqa: BLE001  # a part that fails must not hide the others
            say({"part": parts.__name__, "error": f"{type(error).__name__}: {str(error)[:300]}"})
