"""One look at the hub before money is spent: whether a host can download the base, and what it really is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpurent.dataset.base import KEY, USUAL, HubId
from gpurent.dataset.job import Job
from gpurent.errors import ConfigError
from gpurent.jobs.basemodel import Hubs, half_precision
from gpurent.tasks import Beside, Overdue
from gpurent.untrusted.data import Malformed, parse
from gpurent.untrusted.text import quoted
from gpurent_engine import fetch
from gpurent_engine.families import detect
from gpurent_engine.families.detect import Detected, NotTrainable
from gpurent_engine.families.pins import revision
from gpurent_engine.spec import SpecError

WITHIN_S = 10.0
"""How long it may take; without an answer the host finds out."""
_READ = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")
_ROOT = Path("hub")
_HINTS = {
    fetch.GATED: "Accept the licence on the model's page and set HF_TOKEN.",
    fetch.MISSING: "Its page must list .safetensors weights in diffusers' folders; a single file can be downloaded and "
    f"named instead. A usual base is {USUAL}.",
}


Answer = tuple[list[fetch.File], dict[str, bytes]]
"""Files that would be loaded, and the content of small ones."""


def look_all(jobs: Sequence[Job], hubs: Hubs) -> list[Job]:
    """``look`` for several jobs; a base that several have is asked for once."""
    known: dict[fetch.Order, Answer | None] = {}
    return [look(job, hubs, known) for job in jobs]


def look(job: Job, hubs: Hubs, known: dict[fetch.Order, Answer | None] | None = None) -> Job:
    """The job with what the hub says of its base, where that is one from a hub and a hub answers in time.

    Raises:
        ConfigError: the repository is not there, is gated, holds no weights that are read, or is of another family.
    """
    model = job.base_model
    if not isinstance(model, HubId):
        return job
    order = fetch.Order(
        repository=model.name,
        folder=Path(),
        revision=revision(model.name) or "main",
        half=half_precision(job),
        endpoints=hubs.endpoints,
        token=hubs.token,
    )
    known = {} if known is None else known
    if order not in known:
        try:
            known[order] = Beside(lambda: _answer(order)).result(WITHIN_S)
        except Overdue:
            known[order] = None
    answer = known[order]
    if answer is None:
        return job
    files, contents = answer
    found = _family(job, model.name, contents)
    size = sum(file.size for file in files)
    largest = max(files, key=lambda file: file.size).path if files else ""
    fresh = HubId(model.name, found, size or model.download_bytes, largest=largest)
    try:
        agreed = detect.agree(found, job.spec)
    except SpecError as error:
        raise ConfigError(f"{job.config_path}: {error.key} {error.message}", hint=_HINTS[fetch.MISSING]) from error
    said = [text for key, text in agreed.notes if text not in job.warnings]
    kept = [one for one in job.warnings if one != model.remark or "looked up" not in one]
    return replace(job, base_model=fresh, warnings=(*said, *kept))


def _answer(order: fetch.Order) -> Answer | None:
    """Of the first hub that has the model; None where none can be asked.

    Raises:
        ConfigError: every hub that answers says no.
    """
    refusal: fetch.FetchError | None = None
    for endpoint in order.endpoints:
        try:
            return fetch.glance(endpoint, order, _READ)
        except fetch.FetchError as error:
            refusal = error
        except (*fetch.TROUBLE, ValueError, TypeError, AttributeError, KeyError):
            return None  # not known here; the host will say
    if refusal is None:
        return None
    raise ConfigError(f"{KEY}: {quoted(str(refusal), 300)}", hint=_HINTS.get(refusal.status, _HINTS[fetch.MISSING]))


def _family(job: Job, name: str, contents: Mapping[str, bytes]) -> Detected:
    if "model_index.json" not in contents:
        return job.base_model.found

    def read(path: Path) -> dict[str, Any]:
        try:
            document = parse(contents.get(path.relative_to(_ROOT).as_posix(), b"{}").decode(), most=fetch.MAX_SMALL)
        except (Malformed, ValueError) as error:
            raise NotTrainable(f"has a {path.name} that cannot be read") from error
        return document if isinstance(document, dict) else {}

    try:
        return detect.folder(_ROOT, read)
    except NotTrainable as error:
        said = f"{job.config_path}: {KEY}: {name} {quoted(str(error), 300)[1:-1]}."
        raise ConfigError(said, hint=f"A usual base is {USUAL}.") from error
