"""One optimiser step over the bank: accumulate, clip, AdamW, cast. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gpurent_engine.device import sent
from gpurent_engine.step.bank import Bank
from gpurent_engine.step.kernels.adamw import Piece, adamw, chunks
from gpurent_engine.step.kernels.backend import active

GROWTH_INTERVAL, GROWTH, BACKOFF, FIRST_SCALE = 2000, 2.0, 0.5, 2.0**16
"""torch.amp.GradScaler's."""


@dataclass(frozen=True)
class Hyper:
    """AdamW's settings and the largest gradient norm, 0 for any."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_norm: float = 1.0


class LossScale:
    """Loss scaling for fp16 in device memory, by the rules of ``torch.amp.GradScaler``."""

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), FIRST_SCALE, device=device)
        self.good = torch.zeros((), device=device)

    def follow(self, finite: torch.Tensor) -> None:
        """Grow after ``GROWTH_INTERVAL`` good steps, shrink after a bad one. ``finite``: bool ``[]``."""
        self.good.copy_(torch.where(finite, self.good + 1, torch.zeros_like(self.good)))
        due = self.good >= GROWTH_INTERVAL
        grown = torch.where(due, self.scale * GROWTH, self.scale)
        self.scale.copy_(torch.where(finite, grown, self.scale * BACKOFF))
        self.good.copy_(torch.where(due, torch.zeros_like(self.good), self.good))


class Updater:
    """Turns the bank's gradients into the next masters.

    Args:
        bank: whose masters are updated.
        hyper: of AdamW.
        groups: number of learning rates.
        accumulate: whether several micro-batches make a step; their gradients are then summed in float32.
        scaled: whether the loss is scaled (fp16).
    """

    def __init__(self, bank: Bank, hyper: Hyper, *, groups: int, accumulate: bool, scaled: bool) -> None:
        n, device = bank.adapters, bank.masters.device
        self.bank, self.hyper = bank, hyper
        self.rates = torch.zeros(n, groups, device=device)
        self.skip = torch.zeros(n, device=device)
        """Adapters that rest: not 0."""
        self.moments = torch.zeros(2, n, bank.size, device=device)
        self.active = [segment for segment in bank.segments if not segment.idle]
        self.steps = torch.zeros(n, len(self.active), device=device)
        self.norms = torch.zeros(n, device=device)
        """Gradient norms of the last step, before clipping."""
        self.scale = LossScale(device) if scaled else None
        self.fused = active(bank.masters)
        self.total = None
        if accumulate or not self.fused:
            self.total = torch.zeros(n, bank.size, device=device)
        self.accumulate = accumulate
        self.betas = torch.tensor(hyper.betas, device=device)
        if self.fused:
            self.work = chunks(_pieces(bank), device)
        else:
            self.optimizers = [self._optimizer(i) for i in range(n)]

    def _optimizer(self, adapter: int) -> torch.optim.AdamW:
        """torch's fused AdamW over views of the buffers, one parameter a segment."""
        assert self.total is not None
        bank, groups = self.bank, []
        for segment in self.active:
            part = slice(segment.start, segment.end)
            parameter = torch.nn.Parameter(bank.masters[adapter, part])
            parameter.grad = self.total[adapter, part]
            groups.append({"params": [parameter], "lr": self.rates[adapter, segment.group]})
        hyper = self.hyper
        optimizer = torch.optim.AdamW(
            groups,
            lr=1e-3,
            betas=hyper.betas,
            eps=hyper.eps,
            weight_decay=hyper.weight_decay,
            fused=True,
            capturable=bank.masters.is_cuda,
        )
        for i, (group, segment) in enumerate(zip(optimizer.param_groups, self.active, strict=True)):
            part = slice(segment.start, segment.end)
            optimizer.state[group["params"][0]] = {
                "step": self.steps[adapter, i],
                "exp_avg": self.moments[0, adapter, part],
                "exp_avg_sq": self.moments[1, adapter, part],
            }
        return optimizer

    def start_gathering(self) -> None:
        """From the next step on, several micro-batches may make a step. Not between ``gather`` and ``step``."""
        self.accumulate = True
        if self.total is None:
            self.total = torch.zeros_like(self.bank.masters)
        self.total.zero_()

    def drop(self) -> None:
        """Forget what was gathered for a step that will not be finished."""
        if self.total is not None:
            self.total.zero_()

    @torch.no_grad()
    def gather(self) -> None:
        """Add the last micro-batch's gradients to the sum; nothing to do where each step has one micro-batch."""
        if self.accumulate and self.total is not None:
            self.total.add_(self.bank.gradients)

    def set_rates(self, rates: Sequence[Sequence[float]]) -> None:
        """The next step's learning rates ``[adapters][groups]``."""
        self.rates.copy_(sent(torch.tensor(rates, dtype=torch.float32), self.rates.device))

    @torch.no_grad()
    def step(self) -> None:
        """Clip each adapter's gradients by their norm and update its masters."""
        bank, hyper = self.bank, self.hyper
        gradients = bank.gradients
        if self.total is not None:
            if not self.accumulate:
                self.total.copy_(gradients)
            gradients = self.total
        norms = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float32)
        factors = torch.ones_like(norms)
        skip = self.skip
        if self.scale is not None:
            finite = torch.isfinite(norms)
            factors = factors / self.scale.scale
            norms = norms * factors
            skip = torch.where(finite, skip, torch.ones_like(skip))
            self.scale.follow(finite.all())
        self.norms.copy_(norms)
        if hyper.max_norm:
            # the small constant and the clamp are torch.nn.utils.clip_grad_norm_'s
            factors = factors * (hyper.max_norm / (norms + 1e-6)).clamp(max=1.0)
        if self.fused:
            self.steps.add_((skip == 0).float()[:, None])
            corrections = 1 - self.betas[None, :] ** self.steps[:, :1]
            adamw(
                self.work,
                gradients,
                bank.masters,
                self.moments,
                rates=self.rates,
                factors=factors,
                skip=skip,
                corrections=corrections,
                betas=hyper.betas,
                eps=hyper.eps,
                decay=hyper.weight_decay,
                mirrors=bank.dtype,
            )
        else:
            assert self.total is not None
            self.total.mul_(torch.where(skip == 0, factors, torch.zeros_like(factors))[:, None])
            for optimizer, resting in zip(self.optimizers, skip, strict=True):
                optimizer.found_inf = resting  # type: ignore[attr-defined]
                optimizer.step()
            bank.refresh()
        if self.accumulate and self.total is not None:
            self.total.zero_()


def _pieces(bank: Bank) -> list[Piece]:
    found: list[Piece] = []
    for region, (down_at, up_at) in zip(bank.regions, bank.offsets, strict=True):
        if region.idle:
            continue
        downs, ups = region.sizes
        group, sites = region.sites[0].group, len(region.sites)
        each = ups // sites
        for n in range(bank.adapters):
            base = n * bank.size
            found.append(Piece(base + down_at, downs, n, group, region.down[n]))
            found += [Piece(base + up_at + i * each, each, n, group, region.up[n, i]) for i in range(sites)]
    return found
