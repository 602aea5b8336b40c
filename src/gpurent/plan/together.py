"""Several jobs on one rental: what they share is waited and paid for once. Pure."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import replace

from gpurent.model import Workload
from gpurent.plan import needs, vram
from gpurent.plan.timeline import Timeline


def bulk(workloads: Sequence[Workload]) -> Workload:
    """Several as one, for what only adds up: bytes, pictures and steps. It says nothing about time or memory."""
    return replace(
        workloads[0],
        name=workloads[0].name if len(workloads) == 1 else f"{len(workloads)} jobs",
        images=sum(workload.images for workload in workloads),
        steps=sum(workload.steps for workload in workloads),
        checkpoints=sum(workload.checkpoints for workload in workloads),
        checkpoint_bytes=sum(workload.checkpoint_bytes for workload in workloads),
        upload_bytes=sum(workload.upload_bytes for workload in workloads),
        base_download_bytes=sum(workload.base_download_bytes for workload in workloads),
        grid=functools.reduce(operator.add, drawn)
        if (drawn := [workload.grid for workload in workloads if workload.grid])
        else None,
    )


def hungriest(workloads: Sequence[Workload]) -> vram.Memory:
    """GPU memory of the job that needs most of it."""
    return max((vram.memory(workload) for workload in workloads), key=lambda memory: memory.need)


def ram_mb(workloads: Sequence[Workload]) -> int:
    """MiB of main memory of the job that needs most of it. A base model kept for the next job is there twice."""
    return max(needs.ram_mb(workload, kept=len(workloads) > 1) for workload in workloads)


def joined(timelines: Sequence[Timeline]) -> Timeline:
    """The stages of jobs that follow one another on one machine.

    It boots, is equipped and is destroyed once. What later jobs send and download, which is only what earlier ones have
    not, counts as a part of training: the first engine has started by then.
    """
    first, *later = timelines
    train, collect, draw = first.train_s, first.collect_s, first.draw_s
    for one in later:
        train = train + one.upload_s + one.base_model_s + one.train_s
        collect, draw = collect + one.collect_s, draw + one.draw_s
    return replace(first, train_s=train, collect_s=collect, draw_s=draw)
