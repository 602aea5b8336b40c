"""What decides the result of a training, as digests: what is there already is neither sent nor trained again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gpurent.dataset.job import Job
from gpurent.dataset.manifest import listed
from gpurent.spi import LocalFile
from gpurent_engine import RESULTS
from gpurent_engine.families.pins import revision


@dataclass(frozen=True, slots=True)
class Parcel:
    """Files that are sent together, into a folder of the host that is named after them."""

    files: tuple[LocalFile, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)

    @property
    def folder(self) -> str:
        """Below the login folder; equal files have the same one, whatever job they belong to."""
        return f".gpurent/content/{_digest(sorted((file.target, file.sha256) for file in self.files))[:32]}"


@dataclass(frozen=True, slots=True)
class Content:
    """All files of a job: the base model apart, since other jobs may train on the same one."""

    dataset: Parcel
    base: Parcel

    @classmethod
    def of(cls, job: Job, files: Iterable[LocalFile]) -> Content:
        """Sort what ``job.upload_files`` lists."""
        found = tuple(files)
        targets = {source.target for source in job.base_model.sources}
        return cls(
            Parcel(tuple(file for file in found if file.target not in targets)),
            Parcel(tuple(file for file in found if file.target in targets)),
        )

    @property
    def parcels(self) -> tuple[Parcel, ...]:
        """Those that hold anything."""
        return tuple(one for one in (self.dataset, self.base) if one.files)


def key(job: Job, content: Content) -> str:
    """Digest of everything that decides a job's result: configuration, pictures, captions, base model, engine.

    Two jobs with the same key end in the same weights, as far as their machines compute alike.
    """
    spec = {name: value for name, value in job.sent_spec.to_dict().items() if name != "warnings"}
    files = sorted((file.target, file.sha256) for parcel in content.parcels for file in parcel.files)
    base = [job.base_model_id, revision(job.base_model_id) or "main"] if job.base_target is None else []
    return _digest([RESULTS, spec, files, base])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def contents(jobs: Sequence[Job], on_bytes: Callable[[int], None] = lambda _count: None) -> tuple[Content, ...]:
    """The files of several jobs, each read once however many of them use it.

    Args:
        jobs: in any order.
        on_bytes: called with bytes digested since the last call.

    Raises:
        SourceChanged: a file is not any more what it was when it was checked.
    """
    unique = {source.path: source for job in jobs for source in job.sources}
    known = dict(zip(unique, listed(unique.values(), on_bytes), strict=True))
    return tuple(
        Content.of(job, (replace(known[source.path], target=source.target) for source in job.sources)) for job in jobs
    )
