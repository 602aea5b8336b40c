"""The base model on a host: downloaded there by a program of the engine, beside everything else that takes time."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gpurent.dataset.base import HubId
from gpurent.dataset.job import Job
from gpurent.errors import GpurentError, HostUnfit, JobFailed
from gpurent.spi import Runtime
from gpurent.untrusted.text import quoted
from gpurent_engine.families.pins import revision
from gpurent_engine.fetch import GATED, HUB, MISSING, address

FETCH_S = 3600.0
"""How long a download may take: 2.1 GB at 5 Mbit/s."""


@dataclass(frozen=True, slots=True)
class Hubs:
    """Where base models are downloaded from."""

    endpoints: tuple[str, ...] = (HUB,)
    """In the order in which they are tried."""
    token: str = field(default="", repr=False)
    """For gated or rate-limited repositories; empty: none is sent to any machine."""

    @property
    def names(self) -> tuple[str, ...]:
        """Hosts that a machine must be able to look up; of several hubs any may do."""
        return (urlsplit(self.endpoints[0]).hostname or "",) if len(self.endpoints) == 1 else ()

    @classmethod
    def of(cls, endpoints: tuple[str, ...], environ: Mapping[str, str]) -> Hubs:
        """As configured, else as the hub's own tools are: ``HF_ENDPOINT`` and ``HF_TOKEN``."""
        named = environ.get("HF_ENDPOINT", "").strip()
        found = endpoints or ((named,) if named else (HUB,))
        return cls(tuple(one.rstrip("/") for one in found), environ.get("HF_TOKEN", "").strip())


def folder(job: Job, home: str) -> str:
    """Where the model lies on a host, absolute; the same for every job with that base."""
    name = job.base_model_id.replace("/", "--")
    half = "" if half_precision(job) else "-fp32"
    return posixpath.join(home, ".gpurent/models", f"{name}{half}")


def half_precision(job: Job) -> bool:
    """Whether half-precision weights will do."""
    return job.spec.mixed_precision != "no"


def order(job: Job, hubs: Hubs, home: str) -> bytes:
    """What the program reads from a file that only its user may read, and removes at once: it may hold a token."""
    given = {
        "repository": job.base_model_id,
        "folder": folder(job, home),
        "revision": revision(job.base_model_id) or "main",
        "half": half_precision(job),
        "endpoints": list(hubs.endpoints),
        "token": hubs.token,
    }
    return json.dumps(given).encode()


def sample(job: Job, hubs: Hubs) -> str:
    """Where a machine reads for a moment to see how fast the hub is for it; empty where that is not known."""
    model = job.base_model
    if not isinstance(model, HubId) or not model.largest:
        return ""
    return address(hubs.endpoints[0], model.name, revision(model.name) or "main", model.largest)


def command(runtime: Runtime, order_path: str) -> list[str]:
    """The program, for a job of its own."""
    return [runtime.python, "-m", "gpurent_engine.fetch", order_path]


def failed(status: int, said: str) -> GpurentError:
    """Why there is no base model: the job's fault, or the machine's."""
    why = quoted(said.strip().splitlines()[-1] if said.strip() else "", 400)
    if status in (GATED, MISSING):
        hint = "Accept the licence on the model's page and set HF_TOKEN." if status == GATED else (
            "Look at pretrained_model_name_or_path; its page must list .safetensors weights in diffusers' folders."
        )  # fmt: skip
        return JobFailed(f"the base model cannot be downloaded: {why}", code="base_model", hint=hint)
    return HostUnfit("base_model", f"the machine could not download the base model; it says {why}")
