"""AdamW (Loshchilov and Hutter 2019) over flat buffers: update, cast and distribution in one pass.

Each program handles a chunk of one matrix. Besides the master it writes the copy that the layer computes with, which
may lie anywhere: in the shadow buffer, or as a strided block of a layer's weight table.
"""

# pyright: reportInvalidTypeForm=false
from __future__ import annotations

from dataclasses import dataclass

import torch

from gpurent_engine.step.kernels.backend import INSTALLED, tl, triton

CHUNK = 2048
FIELDS = 7

if INSTALLED:

    @triton.jit
    def _adamw(
        table,
        gradients,
        masters,
        first,
        second,
        rates,
        factors,
        skip,
        corrections,
        GROUPS,
        beta1,
        beta2,
        eps,
        decay,
        FIELDS: tl.constexpr,
        BLOCK: tl.constexpr,
        HALF: tl.constexpr,
        ALIGNED: tl.constexpr,
    ):
        row = table + tl.program_id(0) * FIELDS
        adapter = tl.load(row + 2)
        if tl.load(skip + adapter) == 0:
            start = tl.load(row)
            if ALIGNED:
                start = tl.multiple_of(start, 16)
            count = tl.load(row + 1)
            rate = tl.load(rates + adapter * GROUPS + tl.load(row + 3))
            e = tl.arange(0, BLOCK)
            inside = e < count
            at = start + e
            g = tl.load(gradients + at, mask=inside, other=0.0).to(tl.float32) * tl.load(factors + adapter)
            p = tl.load(masters + at, mask=inside, other=0.0) * (1.0 - rate * decay)
            m = tl.load(first + at, mask=inside, other=0.0)
            v = tl.load(second + at, mask=inside, other=0.0)
            m += (1.0 - beta1) * (g - m)
            v = beta2 * v + (1.0 - beta2) * g * g
            root = tl.sqrt(v) / tl.sqrt(tl.load(corrections + 2 * adapter + 1)) + eps
            p -= rate / tl.load(corrections + 2 * adapter) * m / root
            tl.store(first + at, m, mask=inside)
            tl.store(second + at, v, mask=inside)
            tl.store(masters + at, p, mask=inside)
            columns = tl.load(row + 5)
            stride = tl.load(row + 6)
            within = tl.load(row + 4) + e
            line = within // columns
            place = tl.load(table + tl.num_programs(0) * FIELDS + tl.program_id(0))
            if HALF == 1:
                to = place.to(tl.pointer_type(tl.bfloat16))
                tl.store(to + line * stride + (within - line * columns), p.to(tl.bfloat16), mask=inside)
            elif HALF == 2:
                to = place.to(tl.pointer_type(tl.float16))
                tl.store(to + line * stride + (within - line * columns), p.to(tl.float16), mask=inside)
            else:
                to = place.to(tl.pointer_type(tl.float32))
                tl.store(to + line * stride + (within - line * columns), p, mask=inside)


_FORMATS = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 0}


@dataclass(frozen=True)
class Piece:
    """A matrix of one adapter in the flat buffers, ``[start, start + size)``, and the matrix that mirrors it."""

    start: int
    size: int
    adapter: int
    group: int
    mirror: torch.Tensor


@dataclass(frozen=True)
class Chunks:
    """What each program of the kernel works on, on the device.

    ``table`` is int64: for each chunk start, count, adapter, group, offset within its matrix, columns and row stride of
    the mirror; then each chunk's destination address, which must stay valid. ``aligned``: all starts are multiples
    of 16.
    """

    table: torch.Tensor
    aligned: bool

    @property
    def count(self) -> int:
        """How many there are."""
        return self.table.numel() // (FIELDS + 1)


def chunks(pieces: list[Piece], device: torch.device) -> Chunks:
    """Cut matrices into chunks of at most ``CHUNK`` numbers."""
    rows: list[list[int]] = []
    places: list[int] = []
    for piece in pieces:
        columns, stride = piece.mirror.shape[-1], piece.mirror.stride(0)
        for offset in range(0, piece.size, CHUNK):
            count = min(CHUNK, piece.size - offset)
            rows.append([piece.start + offset, count, piece.adapter, piece.group, offset, columns, stride])
            places.append(piece.mirror.data_ptr())
    flat = [number for row in rows for number in row]
    table = torch.tensor([*flat, *places], dtype=torch.int64).to(device)
    return Chunks(table, all(row[0] % 16 == 0 for row in rows))


def adamw(
    work: Chunks,
    gradients: torch.Tensor,
    masters: torch.Tensor,
    moments: torch.Tensor,
    *,
    rates: torch.Tensor,
    factors: torch.Tensor,
    skip: torch.Tensor,
    corrections: torch.Tensor,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    mirrors: torch.dtype,
) -> None:
    """One update of all adapters, in place.

    Args:
        work: of ``chunks``.
        gradients, masters: ``[adapters, size]``.
        moments: ``[2, adapters, size]`` float32.
        rates: ``[adapters, groups]``.
        factors: what each adapter's gradients are multiplied by first.
        skip: ``[adapters]``; where it is not 0, nothing changes.
        corrections: ``[adapters, 2]``: 1 − β₁ᵗ and 1 − β₂ᵗ.
        betas, eps, decay: as in torch.optim.AdamW.
        mirrors: format of the copies.
    """
    _adamw[work.count,](
        work.table,
        gradients,
        masters,
        moments[0],
        moments[1],
        rates,
        factors,
        skip,
        corrections,
        rates.shape[1],
        betas[0],
        betas[1],
        eps,
        decay,
        FIELDS=FIELDS,
        BLOCK=CHUNK,
        HALF=_FORMATS[mirrors],
        ALIGNED=work.aligned,
    )
