"""Whether a machine can train, found out in seconds and before anything is sent to it.

``examine`` asks, ``verdict`` decides; what a machine says of itself is read strictly, and believed only where it speaks
against the machine: one that lies that it is good is found out when it trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gpurent.errors import HostUnfit
from gpurent.model import Offer
from gpurent.spi import Host
from gpurent.untrusted.data import Malformed, fitted, parse
from gpurent.untrusted.text import quoted

EXAMINE_S = 240.0
"""How long it may take: on a slow disk, importing torch for the first time takes a minute."""
GRACE_S = 60.0
MAX_ANSWER = 64 * 1024
VRAM_SHARE = 0.9
"""Part of the offered GPU memory that a machine must really have: makers, drivers and services count differently."""
IMAGE_TRAITS = frozenset(("no_torch", "cpu_torch"))
"""What every machine with the same image would show."""
X86 = ("x86_64", "amd64")
NEXT_HINT = "Nothing was sent to it; another machine is tried."

Name = Annotated[str, Field(max_length=300)]
Mib = Annotated[int, Field(ge=0, le=2**40)]
Version = tuple[int, int]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Device(_Said):
    """One GPU as torch sees it."""

    name: Name
    capability: Annotated[list[Annotated[int, Field(ge=0, le=99)]], Field(min_length=2, max_length=2)]
    vram_mb: Mib
    free_mb: Mib


class Found(_Said):
    """What ``gpurent_engine.examine`` prints."""

    python: Name = ""
    machine: Name = ""
    time: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    torch: Name = ""
    torch_error: Name = ""
    built_for: Name = ""
    """CUDA version of torch's build."""
    cuda: bool = False
    cuda_error: Name = ""
    devices: Annotated[list[Device], Field(max_length=16)] = []
    arch: Annotated[list[Name], Field(max_length=64)] = []
    product: Name = ""
    driver: Name = ""
    driver_cuda: Name = ""
    ram_mb: Mib = 0
    ram_free_mb: Mib = 0
    disk_free_mb: Mib = 0
    shm_mb: Mib = 0
    cpus: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] = 0.0
    home_writable: bool = True
    unresolved: Annotated[list[Name], Field(max_length=16)] = []
    read_mbps: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)] | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job needs of a machine."""

    vram_mb: int
    ram_mb: int
    disk_mb: int
    names: tuple[str, ...] = ()
    """Hosts that the machine must be able to look up."""
    url: str = ""
    """What it reads for a moment, to measure its line."""
    shm_mb: int = 0
    """Of ``/dev/shm``: the engine is one process whose threads share its memory, so it needs none there."""
    gpu: bool = True
    """False where a machine may train on its CPU: nobody pays for a GPU."""


def examine(host: Host, wanted: Wanted) -> Found:
    """Have the machine examine itself.

    Raises:
        HostUnfit: it has no Python that can, or answers nonsense.
        HostUnreachable: the link is dead.
    """
    source = (files("gpurent_engine") / "examine.py").read_text(encoding="utf-8")
    asked = _Asked(names=list(wanted.names), url=wanted.url).model_dump_json()
    ended = host.python(source, stdin=asked.encode(), timeout=EXAMINE_S)
    if ended.status != 0:
        said = quoted(ended.stderr, end=True)
        raise HostUnfit("examination", f"the machine could not be examined; it says {said}", hint=NEXT_HINT)
    try:
        return fitted(Found, parse(ended.stdout, most=MAX_ANSWER))
    except Malformed as error:
        raise HostUnfit(
            "examination", f"what the machine says of itself cannot be read: {error}", hint=NEXT_HINT
        ) from error


class _Asked(BaseModel):
    names: list[str]
    url: str


def verdict(found: Found, offer: Offer, wanted: Wanted) -> HostUnfit | None:
    """Why this machine cannot train, or None."""
    for trait, why in _reasons(found, offer, wanted):
        image = trait in IMAGE_TRAITS
        hint = "" if image else NEXT_HINT
        return HostUnfit(trait, f"{offer.gpu} at {offer.provider}: {why}", image=image, hint=hint)
    return None


Reasons = Iterator[tuple[str, str]]
"""Trait, and why."""


def _reasons(found: Found, offer: Offer, wanted: Wanted) -> Reasons:
    if found.machine and found.machine.lower() not in X86:
        yield "architecture", f"its processor is {quoted(found.machine)}, not x86_64"
    if not found.torch:
        why = f": {quoted(found.torch_error)}" if found.torch_error else ""
        yield "no_torch", f"torch cannot be imported from the image{why}"
    if wanted.gpu:
        yield from _gpu(found, offer, wanted)
    if found.ram_mb and found.ram_mb < wanted.ram_mb:
        yield "ram", f"{_gb(found.ram_mb)} of main memory, {_gb(wanted.ram_mb)} needed"
    if found.disk_free_mb < wanted.disk_mb:
        yield "disk", f"{_gb(found.disk_free_mb)} of disk free, {_gb(wanted.disk_mb)} needed"
    if found.shm_mb < wanted.shm_mb:
        yield "shm", f"{_gb(found.shm_mb)} of shared memory, {_gb(wanted.shm_mb)} needed"
    if not found.home_writable:
        yield "read_only", "its login folder cannot be written to"
    if found.unresolved:
        yield "no_network", f"it cannot look up {', '.join(map(quoted, found.unresolved))}"


def _gpu(found: Found, offer: Offer, wanted: Wanted) -> Reasons:
    if not found.built_for:
        yield "cpu_torch", f"the image's torch {quoted(found.torch)} is built without CUDA"
    if _older(found.driver_cuda, found.built_for) or (not found.cuda and "too old" in found.cuda_error):
        runs = f" runs CUDA {quoted(found.driver_cuda)}" if found.driver_cuda else " is too old"
        yield "old_driver", f"its driver {quoted(found.driver)}{runs}; torch is built for {quoted(found.built_for)}"
    if not found.cuda or not found.devices:
        why = f": {quoted(found.cuda_error)}" if found.cuda_error else ""
        yield "no_gpu", f"no GPU can be used on it: torch sees no CUDA device{why}"
        return
    if len(found.devices) < offer.gpu_count:
        yield "gpu_count", f"torch sees {len(found.devices)} of {offer.gpu_count} GPUs"
    for card in found.devices[: offer.gpu_count]:
        major, minor = card.capability
        if not runs_on((major, minor), found.arch):
            has = f"{quoted(card.name)} has compute capability {major}.{minor}"
            yield "capability", f"{has}, for which torch {quoted(found.torch)} holds no kernels"
        if card.vram_mb < min(wanted.vram_mb, offer.vram_mb * VRAM_SHARE):
            yield "vram", f"its GPU has {_gb(card.vram_mb)}, offered were {_gb(offer.vram_mb)}"
        if card.free_mb < wanted.vram_mb * VRAM_SHARE:
            free = f"{_gb(card.free_mb)} of its GPU's {_gb(card.vram_mb)} are free"
            yield "vram_in_use", f"{free}, {_gb(wanted.vram_mb)} needed"
    if found.product == "wrong":
        yield "wrong_result", "its GPU computes wrongly"
    if found.product not in ("right", "wrong"):
        yield "gpu_error", f"its GPU fails: {quoted(found.product)}"


def _gb(mib: float) -> str:
    return f"{mib / 1024:.1f} GB"


def runs_on(capability: Version, arch: Sequence[str]) -> bool:
    """Whether a card runs code built for ``arch`` (torch's list: ``sm_86``, ``compute_90`` …).

    Machine code runs on cards of the same major version and the same or a higher minor one; PTX (``compute_``) on all
    newer cards. An empty list says nothing.
    """
    major, minor = capability
    for name in arch:
        kind, _, digits = name.rstrip("a").partition("_")
        if not digits.isdecimal() or len(digits) < 2:
            continue
        built = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and built[0] == major and built[1] <= minor:
            return True
        if kind == "compute" and built <= (major, minor):
            return True
    return not arch


def _older(driver: str, built: str) -> bool:
    """Whether a driver's CUDA is older than the one torch is built for; False where either is not told."""
    runs, needs = _version(driver), _version(built)
    return runs is not None and needs is not None and runs < needs


def _version(text: str) -> Version | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
