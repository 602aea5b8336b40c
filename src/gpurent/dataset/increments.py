"""What each job of a series adds to what the ones before it have sent and downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpurent.dataset.job import Job
from gpurent.model import Workload


def increments(jobs: Sequence[Job]) -> tuple[Workload, ...]:
    """The workloads of jobs that follow one another on one machine, in this order.

    Files are told apart by their paths: digests of everything would take long before there is a quote.
    """
    sent: set[frozenset[tuple[Path, str]]] = set()
    found: list[Workload] = []
    downloaded: set[tuple[str, bool]] = set()
    kept: tuple[object, ...] | None = None
    for job in jobs:
        work = job.workload
        base = frozenset((source.path, source.target) for source in job.base_model.sources)
        rest = frozenset((source.path, source.target) for source in job.sources) - base
        new = sum(_size(one) for one in (base, rest) if one not in sent)
        hub = (job.base_model_id, work.half_precision)
        found.append(
            replace(
                work,
                upload_bytes=new,
                base_download_bytes=0 if hub in downloaded else work.base_download_bytes,
                base_kept=(base, *hub) == kept,
            )
        )
        kept = base, *hub
        sent |= {base, rest}
        downloaded.add(hub)
    return tuple(found)


def _size(files: frozenset[tuple[Path, str]]) -> int:
    return sum(path.stat().st_size for path, _ in files)
