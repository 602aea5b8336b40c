"""GroupNorm (Wu and He 2018) over NHWC maps, with an optional shift before and SiLU behind, for a frozen base.

The input may be two maps that are concatenated in the plain model: the kernels read both where they are. Gradients
are computed for the maps and, if it needs one, the shift; the affine weights are frozen.

The function also returns its inputs. What uses them there (the residual path) sends its gradient back through this
node, which adds it in the same pass over memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from gpurent_engine.step.kernels.backend import INSTALLED, active, blocks, power_of_two, tl, triton
from gpurent_engine.step.rows import with_room

ROWS = 32  # pixels a tile
COEFFICIENT_BLOCK = 16  # partial sums that are added at a time
LEAST_GROUP = 64  # channels of a group; one size for most layers, because every other is compiled again

if INSTALLED:

    @triton.jit
    def _source(x1, x2, column, C1, C2):
        """Pointer to ``column`` of the concatenation, and the width of the map it lies in."""
        first = column < C1  # a select, not a branch: Triton sees through it that the pointer stays aligned
        pointer = tl.where(first, x1 + column, x2 + (column - C1))
        width = tl.where(first, C1, C2)
        return pointer, width

    @triton.jit
    def _through_silu(g, z):
        s = 1.0 / (1.0 + tl.exp(-z))
        return g * s * (1.0 + z * (1.0 - s))

    @triton.jit(do_not_specialize=["HW", "ROWS_EACH", "PARTS"])
    def _sums(
        x1,
        x2,
        dy,
        scale,
        offset,
        first,
        second,
        C1,
        C2,
        HW,
        ROWS_EACH,
        PARTS,
        DY_STRIDE,
        BACKWARD: tl.constexpr,
        ACT: tl.constexpr,
        BR: tl.constexpr,
        BC: tl.constexpr,
    ):
        """Partial sums over pixels for each channel: Σv, Σv² forward; Σg, Σgv backward."""
        n, part = tl.program_id(0), tl.program_id(1)
        C = C1 + C2
        start = tl.program_id(2) * BC
        lane = tl.arange(0, BC)
        c = start + lane
        known = c < C
        x, width = _source(x1, x2, start, C1, C2)
        sum1 = tl.zeros([BC], tl.float32)
        sum2 = tl.zeros([BC], tl.float32)
        if BACKWARD:
            a = tl.load(scale + n * C + c, mask=known, other=0.0)
            b = tl.load(offset + n * C + c, mask=known, other=0.0)
        for i in range(0, ROWS_EACH, BR):
            r = part * ROWS_EACH + i + tl.arange(0, BR)
            inside = (r < HW)[:, None] & known[None, :]
            row = (n * HW + r).to(tl.int64)
            v = tl.load(x + row[:, None] * width + lane[None, :], mask=inside, other=0.0).to(tl.float32)
            if BACKWARD:
                g = tl.load(dy + row[:, None] * DY_STRIDE + c[None, :], mask=inside, other=0.0).to(tl.float32)
                if ACT:
                    g = _through_silu(g, v * a[None, :] + b[None, :])
                sum1 += tl.sum(g, 0)
                sum2 += tl.sum(g * v, 0)
            else:
                sum1 += tl.sum(v, 0)
                sum2 += tl.sum(v * v, 0)
        at = (n * PARTS + part) * C + c
        tl.store(first + at, sum1, mask=known)
        tl.store(second + at, sum2, mask=known)

    @triton.jit
    def _total(pointer, n, c, known, PARTS, C, BP: tl.constexpr, BG: tl.constexpr):
        total = tl.zeros([BG], tl.float32)
        for i in range(0, PARTS, BP):
            p = i + tl.arange(0, BP)
            inside = (p < PARTS)[:, None] & known[None, :]
            total += tl.sum(tl.load(pointer + (n * PARTS + p)[:, None] * C + c[None, :], mask=inside, other=0.0), 0)
        return total

    @triton.jit(do_not_specialize=["PARTS", "CG", "HW"])
    def _coefficients(
        first,
        second,
        weight,
        bias,
        shift,
        SHIFT_STRIDE,
        mean,
        rstd,
        scale,
        offset,
        sums,
        PARTS,
        C,
        CG,
        HW,
        eps,
        SHIFTED: tl.constexpr,
        SUMS: tl.constexpr,
        BP: tl.constexpr,
        BG: tl.constexpr,
    ):
        """Forward: y = act(scale·v + offset), both for each sample and channel."""
        n, g = tl.program_id(0), tl.program_id(1)
        G = tl.num_programs(1)
        k = tl.arange(0, BG)
        c, known = g * CG + k, k < CG
        sum1 = _total(first, n, c, known, PARTS, C, BP, BG)
        sum2 = _total(second, n, c, known, PARTS, C, BP, BG)
        pixels = HW.to(tl.float32)
        count = pixels * CG
        t = tl.zeros([BG], tl.float32)
        if SHIFTED:
            t = tl.load(shift + n * SHIFT_STRIDE + c, mask=known, other=0.0).to(tl.float32)
        shifted1 = tl.where(known, sum1 + pixels * t, 0.0)
        shifted2 = tl.where(known, sum2 + 2.0 * t * sum1 + pixels * t * t, 0.0)
        mu = tl.sum(shifted1, 0) / count
        variance = tl.sum(shifted2, 0) / count - mu * mu
        rs = 1.0 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
        tl.store(mean + n * G + g, mu)
        tl.store(rstd + n * G + g, rs)
        a = rs * tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
        b = tl.load(bias + c, mask=known, other=0.0).to(tl.float32) - mu * a + a * t
        tl.store(scale + n * C + c, a, mask=known)
        tl.store(offset + n * C + c, b, mask=known)
        if SUMS:
            tl.store(sums + n * C + c, sum1, mask=known)

    @triton.jit(do_not_specialize=["PARTS", "CG", "HW"])
    def _gradient_coefficients(
        first,
        second,
        weight,
        shift,
        SHIFT_STRIDE,
        mean,
        rstd,
        constant,
        slope,
        sums,
        dshift,
        PARTS,
        C,
        CG,
        HW,
        SHIFTED: tl.constexpr,
        SUMS: tl.constexpr,
        BP: tl.constexpr,
        BG: tl.constexpr,
    ):
        """Backward: dv = scale·g + constant + slope·v, both for each sample and channel."""
        n, g = tl.program_id(0), tl.program_id(1)
        G = tl.num_programs(1)
        k = tl.arange(0, BG)
        c, known = g * CG + k, k < CG
        sum1 = _total(first, n, c, known, PARTS, C, BP, BG)
        sum2 = _total(second, n, c, known, PARTS, C, BP, BG)
        pixels = HW.to(tl.float32)
        count = pixels * CG
        t = tl.zeros([BG], tl.float32)
        if SHIFTED:
            t = tl.load(shift + n * SHIFT_STRIDE + c, mask=known, other=0.0).to(tl.float32)
        w = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
        mu = tl.load(mean + n * G + g)
        rs = tl.load(rstd + n * G + g)
        m1 = tl.sum(w * sum1, 0) / count
        m2 = tl.sum(w * rs * (sum2 + (t - mu) * sum1), 0) / count
        q = -rs * rs * m2
        p = -rs * m1 + rs * rs * mu * m2 + q * t
        tl.store(constant + n * C + c, p, mask=known)
        tl.store(slope + n * C + c, q + tl.zeros([BG], tl.float32), mask=known)
        if SUMS:
            v = tl.load(sums + n * C + c, mask=known, other=0.0)
            tl.store(dshift + n * C + c, rs * w * sum1 + pixels * p + q * v, mask=known)

    @triton.jit(do_not_specialize=["HW"])
    def _apply(
        x1,
        x2,
        scale,
        offset,
        y,
        C1,
        C2,
        HW,
        Y_STRIDE,
        ACT: tl.constexpr,
        BR: tl.constexpr,
        BC: tl.constexpr,
    ):
        n = tl.program_id(0)
        C = C1 + C2
        r = tl.program_id(1) * BR + tl.arange(0, BR)
        start = tl.program_id(2) * BC
        lane = tl.arange(0, BC)
        c = start + lane
        known = c < C
        inside = (r < HW)[:, None] & known[None, :]
        row = (n * HW + r).to(tl.int64)
        x, width = _source(x1, x2, start, C1, C2)
        a = tl.load(scale + n * C + c, mask=known, other=0.0)
        b = tl.load(offset + n * C + c, mask=known, other=0.0)
        v = tl.load(x + row[:, None] * width + lane[None, :], mask=inside, other=0.0).to(tl.float32)
        z = v * a[None, :] + b[None, :]
        if ACT:
            z = z / (1.0 + tl.exp(-z))
        tl.store(y + row[:, None] * Y_STRIDE + c[None, :], z.to(y.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["HW"])
    def _apply_gradient(
        x1,
        x2,
        dy,
        scale,
        offset,
        constant,
        slope,
        pass1,
        pass2,
        dx1,
        dx2,
        C1,
        C2,
        HW,
        DY_STRIDE,
        ACT: tl.constexpr,
        PASS1: tl.constexpr,
        PASS2: tl.constexpr,
        BR: tl.constexpr,
        BC: tl.constexpr,
    ):
        n = tl.program_id(0)
        C = C1 + C2
        r = tl.program_id(1) * BR + tl.arange(0, BR)
        start = tl.program_id(2) * BC
        lane = tl.arange(0, BC)
        c = start + lane
        known = c < C
        inside = (r < HW)[:, None] & known[None, :]
        row = (n * HW + r).to(tl.int64)
        x, width = _source(x1, x2, start, C1, C2)
        at = row[:, None] * width + lane[None, :]
        a = tl.load(scale + n * C + c, mask=known, other=0.0)
        b = tl.load(offset + n * C + c, mask=known, other=0.0)
        p = tl.load(constant + n * C + c, mask=known, other=0.0)
        q = tl.load(slope + n * C + c, mask=known, other=0.0)
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(dy + row[:, None] * DY_STRIDE + c[None, :], mask=inside, other=0.0).to(tl.float32)
        if ACT:
            g = _through_silu(g, v * a[None, :] + b[None, :])
        dv = a[None, :] * g + p[None, :] + q[None, :] * v
        if PASS1:
            dv += tl.load(pass1 + start + at, mask=inside & (start < C1), other=0.0).to(tl.float32)
        if PASS2:
            dv += tl.load(pass2 + (start - C1) + at, mask=inside & (start >= C1), other=0.0).to(tl.float32)
        dx, _ = _source(dx1, dx2, start, C1, C2)
        tl.store(dx + at, dv.to(dx1.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class Tiling:
    """How a map is cut: ``channels`` and pixels of a tile, ``parts`` of ``rows_each`` pixels summed by one program."""

    channels: int
    channel_blocks: int
    parts: int
    rows_each: int


def tiling(samples: int, pixels: int, first: int, second: int) -> Tiling:
    """Tiles that fill a GPU of about 130 multiprocessors eight times over, and never span two maps."""
    widest = 128 if first + second > 64 else 64
    if second:
        widest = min(widest, first & -first, second & -second)
    channel_blocks = blocks(first, widest) + blocks(second, widest)
    parts = max(1, min(64, blocks(pixels, ROWS), blocks(1056, samples * channel_blocks)))
    rows_each = blocks(blocks(pixels, parts), ROWS) * ROWS
    return Tiling(widest, channel_blocks, blocks(pixels, rows_each), rows_each)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x1: torch.Tensor,
        x2: torch.Tensor | None,
        shift: torch.Tensor | None,
        norm: torch.nn.GroupNorm,
        act: bool,
        room: int,
    ) -> Any:
        ctx.set_materialize_grads(False)
        x1 = x1.contiguous()
        second = x1 if x2 is None else x2.contiguous()
        n, height, width, c1 = x1.shape
        c2 = 0 if x2 is None else second.shape[-1]
        pixels, channels, groups = height * width, c1 + c2, norm.num_groups
        cut = tiling(n, pixels, c1, c2)
        f32: dict[str, Any] = {"dtype": torch.float32, "device": x1.device}
        sums = torch.empty(2, n, cut.parts, channels, **f32)
        moments = torch.empty(2, n, groups, **f32)
        lines = torch.empty(2, n, channels, **f32)
        wants_shift = shift is not None and shift.requires_grad
        totals = torch.empty(n, channels, **f32) if wants_shift else lines
        per_group = channels // groups
        _sums[n, cut.parts, cut.channel_blocks](
            x1,
            second,
            x1,
            lines,
            lines,
            sums[0],
            sums[1],
            c1,
            c2,
            pixels,
            cut.rows_each,
            cut.parts,
            channels,
            BACKWARD=False,
            ACT=False,
            BR=ROWS,
            BC=cut.channels,
        )
        _coefficients[n, groups](
            sums[0],
            sums[1],
            norm.weight,
            norm.bias,
            norm.weight if shift is None else shift,
            0 if shift is None else shift.stride(0),
            moments[0],
            moments[1],
            lines[0],
            lines[1],
            totals,
            cut.parts,
            channels,
            per_group,
            pixels,
            norm.eps,
            SHIFTED=shift is not None,
            SUMS=wants_shift,
            BP=COEFFICIENT_BLOCK,
            BG=max(LEAST_GROUP, power_of_two(per_group)),
        )
        y = with_room((n, height, width, channels), room, x1)
        _apply[n, blocks(pixels, ROWS), cut.channel_blocks](
            x1, second, lines[0], lines[1], y, c1, c2, pixels, channels + room, ACT=act, BR=ROWS, BC=cut.channels
        )
        ctx.save_for_backward(x1, x2, shift, norm.weight, moments, lines, totals if wants_shift else None)
        ctx.settings = (groups, act, cut)
        return y, x1.view_as(x1), None if x2 is None else second.view_as(second)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        dy, pass1, pass2 = gradients
        x1, x2, shift, weight, moments, lines, totals = ctx.saved_tensors
        groups, act, cut = ctx.settings
        if dy is None:
            return pass1, pass2, None, None, None, None
        dy = dy.contiguous()
        n, height, width, c1 = x1.shape
        c2 = 0 if x2 is None else x2.shape[-1]
        pixels, channels = height * width, c1 + c2
        per_group = channels // groups
        second = x1 if x2 is None else x2
        f32: dict[str, Any] = {"dtype": torch.float32, "device": x1.device}
        sums = torch.empty(2, n, cut.parts, channels, **f32)
        slopes = torch.empty(2, n, channels, **f32)
        dshift = None if totals is None else torch.empty(n, channels, **f32)
        _sums[n, cut.parts, cut.channel_blocks](
            x1,
            second,
            dy,
            lines[0],
            lines[1],
            sums[0],
            sums[1],
            c1,
            c2,
            pixels,
            cut.rows_each,
            cut.parts,
            channels,
            BACKWARD=True,
            ACT=act,
            BR=ROWS,
            BC=cut.channels,
        )
        _gradient_coefficients[n, groups](
            sums[0],
            sums[1],
            weight,
            weight if shift is None else shift,
            0 if shift is None else shift.stride(0),
            moments[0],
            moments[1],
            slopes[0],
            slopes[1],
            slopes if totals is None else totals,
            slopes if dshift is None else dshift,
            cut.parts,
            channels,
            per_group,
            pixels,
            SHIFTED=shift is not None,
            SUMS=totals is not None,
            BP=COEFFICIENT_BLOCK,
            BG=max(LEAST_GROUP, power_of_two(per_group)),
        )
        dx1 = torch.empty_like(x1)
        dx2 = None if x2 is None else torch.empty_like(x2)
        pass1 = None if pass1 is None else pass1.contiguous()
        pass2 = None if pass2 is None else pass2.contiguous()
        _apply_gradient[n, blocks(pixels, ROWS), cut.channel_blocks](
            x1,
            second,
            dy,
            lines[0],
            lines[1],
            slopes[0],
            slopes[1],
            dy if pass1 is None else pass1,
            dy if pass2 is None else pass2,
            dx1,
            dx1 if dx2 is None else dx2,
            c1,
            c2,
            pixels,
            channels,
            ACT=act,
            PASS1=pass1 is not None,
            PASS2=pass2 is not None,
            BR=ROWS,
            BC=cut.channels,
        )
        return dx1, dx2, None if dshift is None or shift is None else dshift.to(shift.dtype), None, None, None


def group_norm(
    x: torch.Tensor,
    norm: torch.nn.GroupNorm,
    *,
    act: bool,
    shift: torch.Tensor | None = None,
    skip: torch.Tensor | None = None,
    room: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """``norm`` of the concatenation of ``x`` and ``skip`` plus ``shift``, then SiLU if ``act``.

    Args:
        x: ``[n, height, width, c1]``.
        norm: frozen, over ``c1 + c2`` channels.
        act: whether SiLU follows.
        shift: ``[n, c1 + c2]``, added to each pixel first; rows may be strided.
        skip: ``[n, height, width, c2]``.
        room: spare columns behind each pixel of the result.

    Returns:
        The result ``[n, height, width, c1 + c2]``, and ``x`` and ``skip`` for whatever else uses them.
    """
    if active(x):
        y, again, skip_again = _GroupNorm.apply(x, skip, shift, norm, act, room)
        return y, again, skip_again
    return plain_group_norm(x, norm, act=act, shift=shift, skip=skip), x, skip


def plain_group_norm(
    x: torch.Tensor,
    norm: torch.nn.GroupNorm,
    *,
    act: bool,
    shift: torch.Tensor | None = None,
    skip: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same in torch's own operations."""
    if skip is not None:
        x = torch.cat([x, skip], dim=-1)
    if shift is not None:
        x = x + shift[:, None, None, :]
    y = F.group_norm(x.permute(0, 3, 1, 2), norm.num_groups, norm.weight, norm.bias, norm.eps)
    return (F.silu(y) if act else y).permute(0, 2, 3, 1)
