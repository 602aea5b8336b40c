"""Several processes, each with a GPU of its own, train one LoRA; what is learnt is what one process learns.

Every process draws every batch from the same generator, computes its share of the pictures, and adds its gradients to
those of the others before the optimiser step. So all of them keep the same adapters, and only the first saves, speaks
and decides when to stop. ``launch.py`` starts them on one machine; ``torchrun`` and ``accelerate launch`` do too, on
several machines as well: what they say in the environment is what is read here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist

from gpurent_engine import launch
from gpurent_engine.fitting import rows
from gpurent_engine.stepper import Batch, PassingOn, Stepper

TIMEOUT = timedelta(minutes=15)
"""Longer than any process keeps the others waiting: the first one saves and validates between two steps."""


@dataclass(frozen=True)
class Group:
    """The processes of one training; by default this one alone."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process saves, speaks and decides."""
        return self.rank == 0

    def sum_flat(self, buffer: torch.Tensor) -> None:
        """Replace a contiguous tensor by its sum over all processes."""
        if self.size > 1:
            dist.all_reduce(buffer)

    def sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """The same for many tensors, sent as one."""
        found = list(tensors)
        if self.size == 1 or not found:
            return
        flat = torch.cat([one.reshape(-1) for one in found])
        dist.all_reduce(flat)
        at = 0
        for one in found:
            one.copy_(flat[at : at + one.numel()].view_as(one))
            at += one.numel()

    def agree(self, *values: int) -> tuple[int, ...]:
        """What the first process says, for all."""
        if self.size == 1:
            return values
        said = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(said, src=0)
        return tuple(int(one) for one in said)


ALONE = Group()


def join() -> Group:
    """Meet the other processes that the environment tells of; alone where it tells of none."""
    size = int(os.environ.get("WORLD_SIZE") or 1)
    if size == 1:
        return ALONE
    launch.end_with_parent()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    rank = int(os.environ["RANK"])
    where = os.environ.get(launch.RENDEZVOUS) or "env://"
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=size, timeout=TIMEOUT)
    return Group(rank, size)


def leave() -> None:
    """Part from the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


class SharedStepper(PassingOn[Stepper]):
    """Computes this process's share of each step and has the result of all; what it passes on, it does by itself.

    Args:
        stepper: sums gradients over ``group`` between its backward passes and its optimiser step.
        group: the processes.
    """

    def __init__(self, stepper: Stepper, group: Group) -> None:
        self.inner = stepper
        self._group = group

    def step(self, batches: Sequence[Batch], rates: Sequence[float]) -> torch.Tensor:
        """See ``Stepper.step``."""
        mine, owners = share(batches, self._group)
        losses = self.inner.step(mine, rates)
        at = torch.tensor(owners, device=losses.device)
        found = losses.new_zeros(len(batches)).index_add_(0, at, losses * (len(batches) / len(mine)))
        self._group.sum_flat(found)
        return found

    def rehearse(self, batches: Sequence[Batch]) -> None:
        """See ``Stepper.rehearse``; this process's share."""
        self.inner.rehearse(share(batches, self._group)[0])


def share(batches: Sequence[Batch], group: Group) -> tuple[list[Batch], list[int]]:
    """This process's pictures of a step, and for each piece the index of the batch that it comes from.

    All pictures of the step in a row are cut into as many equal runs as there are processes. The weights are such that
    the mean over the pieces, summed over all processes, is the mean over ``batches``. A process without a picture gets
    one that counts nothing: it has to take part in the sum.
    """
    total = sum(len(batch.mean) for batch in batches)
    begin, end = (total * one // group.size for one in (group.rank, group.rank + 1))
    found, owners, at = [], [], 0
    for index, batch in enumerate(batches):
        size = len(batch.mean)
        first, last = max(begin - at, 0), min(end - at, size)
        if first < last:
            piece = batch if last - first == size else rows(batch, first, last)
            # dropouts draw by this seed: two pieces must not get the same masks
            seed = batch.seed + first if batch.seed else 0
            found.append((piece, (last - first) / size, seed))
            owners.append(index)
        at += size
    if not found:
        found.append((rows(batches[0], 0, 1), 0.0, 0))
        owners.append(0)
    scale = len(found) / len(batches)
    return [replace(one, weight=one.weight * (part * scale), seed=seed) for one, part, seed in found], owners
