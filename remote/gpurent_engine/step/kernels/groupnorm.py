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

from gpurent_engine.step.kernels import groupnorm_programs as programs
from gpurent_engine.step.kernels.backend import active, blocks, power_of_two
from gpurent_engine.step.rows import with_room

ROWS = 32  # pixels a tile
COEFFICIENT_BLOCK = 16  # partial sums that are added at a time
LEAST_GROUP = 64  # channels of a group; one size for most layers, because every other is compiled again


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
        programs.channel_sums[n, cut.parts, cut.channel_blocks](
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
        programs.coefficients[n, groups](
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
        programs.apply[n, blocks(pixels, ROWS), cut.channel_blocks](
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
        programs.channel_sums[n, cut.parts, cut.channel_blocks](
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
        programs.gradient_coefficients[n, groups](
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
        programs.apply_gradient[n, blocks(pixels, ROWS), cut.channel_blocks](
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
