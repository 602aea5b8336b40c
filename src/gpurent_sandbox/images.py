"""What a container image puts on a machine: where Python is, what its ``ENV`` holds, how a login greets; and the traits
that make a machine unlike the others. Pure.

What an SSH session sees is the point: sshd gives it a ``PATH`` of its own and nothing of the image's ``ENV``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

DEFAULT = "pytorch-runtime"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python below the machine's root. ``complete``: with torch and every package; else with nothing at all."""

    path: str
    complete: bool = True
    version: str = ""
    """What it says of itself, where that is not this computer's own Python."""


@dataclass(frozen=True, slots=True)
class Image:
    """One kind of image."""

    name: str
    interpreters: tuple[Interpreter, ...]
    path: tuple[str, ...] = ()
    """What ``ENV`` puts in front of the usual ``PATH``, below the machine's root."""
    env: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    """Programs that it lacks."""
    motd: str = ""
    """What a login says on standard error."""


_NO_COMPILER = ("gcc", "cc", "g++", "c++", "cpp", "make", "nvcc")

IMAGES: Mapping[str, Image] = {
    image.name: image
    for image in (
        Image(
            "pytorch-runtime",
            (Interpreter("opt/conda/bin/python3"), Interpreter("opt/conda/bin/python")),
            ("opt/conda/bin", "usr/local/nvidia/bin", "usr/local/cuda/bin"),
            {
                "LD_LIBRARY_PATH": "/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
                "NVIDIA_VISIBLE_DEVICES": "all",
                "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
                "PYTORCH_VERSION": "2.8.0",
            },
            _NO_COMPILER,
        ),
        Image(
            "runpod-pytorch",
            (Interpreter("usr/bin/python3", complete=False, version="3.10"), Interpreter("usr/local/bin/python")),
            ("usr/local/nvidia/bin", "usr/local/cuda/bin"),
            {"PIP_BREAK_SYSTEM_PACKAGES": "1", "SHELL": "/bin/bash", "PYTHONUNBUFFERED": "True"},
            motd="For detailed documentation and guides, please visit: https://docs.runpod.io/",
        ),
        Image(
            "vastai-pytorch",
            (
                Interpreter("usr/bin/python3", complete=False),
                Interpreter("venv/main/bin/python"),
                Interpreter("venv/main/bin/python3"),
            ),
            env={"DATA_DIRECTORY": "/workspace/", "WORKSPACE": "/workspace", "PIP_BREAK_SYSTEM_PACKAGES": "1"},
            motd="Welcome to vast.ai. If authentication fails, try again after a few seconds.\nHave fun!",
        ),
        Image(
            "bare",
            (Interpreter("usr/bin/python3", complete=False),),
            env={"NVIDIA_VISIBLE_DEVICES": "all"},
            missing=("pip", "pip3", *_NO_COMPILER),
        ),
    )
}


class Trait(StrEnum):
    """What can be wrong with a machine."""

    NO_CUDA = "no_cuda"
    """torch sees no CUDA device."""
    OLD_DRIVER = "old_driver"
    """The driver is too old for the image's CUDA."""
    CAPABILITY_6_1 = "capability_6_1"
    """A Pascal card, for which torch's wheels hold no kernels."""
    WRONG_RESULT = "wrong_result"
    """The GPU computes wrongly."""
    VRAM_IN_USE = "vram_in_use"
    """Somebody else's process holds most of the GPU's memory."""
    RAM_2_GB = "ram_2_gb"
    """The container may use 2 GB of main memory."""
    SLOW_LINK = "slow_link"
    """25 Mbit/s in both directions, whatever the offer says."""
    READ_ONLY_WORKSPACE = "read_only_workspace"
    """``/workspace`` cannot be written to."""
    NOT_ROOT = "not_root"
    """SSH logs in as another user, whose folder is not the one in which the start-up script worked."""
    CLOCK_AHEAD = "clock_ahead"
    """Its clock is three hours ahead."""
    CLOCK_BEHIND = "clock_behind"
    """Its clock is three hours behind."""
    NO_DNS = "no_dns"
    """No name can be resolved."""
    NOISE = "noise"
    """The login shell prints something before every command."""
    NO_PACKAGES = "no_packages"
    """The image has torch, and not all that the engine needs besides, like most."""
    NO_SFTP = "no_sftp"
    """The SSH server has no SFTP subsystem."""


@dataclass(frozen=True, slots=True)
class Furnishing:
    """What a machine is furnished with, whatever image is asked for."""

    image: str = ""
    """Name in ``IMAGES``; empty: the one that the order's image resembles."""
    traits: frozenset[Trait] = frozenset()


def parse(text: str) -> tuple[str, Furnishing]:
    """Read ``MACHINE=IMAGE+TRAIT+TRAIT``; the image may be left out, and ``*`` means every machine.

    Raises:
        ValueError: there is no such image or trait; says which there are.
    """
    machine, _, rest = text.partition("=")
    first, *others = rest.split("+")
    names = [*([] if first in IMAGES or not first else [first]), *others]
    known = [trait.value for trait in Trait]
    wrong = [name for name in names if name not in known]
    if not machine or wrong or not rest:
        what = f"{wrong[0]!r} is neither an image nor a trait" if wrong else "write MACHINE=IMAGE+TRAIT"
        raise ValueError(f"{what}; images: {', '.join(IMAGES)}; traits: {', '.join(known)}")
    return machine, Furnishing(first if first in IMAGES else "", frozenset(map(Trait, names)))


def resembling(image: str) -> Image:
    """The kind that an image's name stands for."""
    name = image.lower()
    if name.startswith(("nvidia/cuda", "ubuntu", "debian")):
        return IMAGES["bare"]
    if "runpod/" in name:
        return IMAGES["runpod-pytorch"]
    if name.startswith("vastai/"):
        return IMAGES["vastai-pytorch"]
    return IMAGES[DEFAULT]


def chosen(furnishing: Furnishing, image: str) -> Image:
    """What a machine with ``furnishing`` gets when ``image`` is asked for."""
    return IMAGES[furnishing.image] if furnishing.image else resembling(image)


def merged(furnishings: Sequence[Furnishing]) -> Furnishing:
    """Several orders for one machine: the last image, and all traits."""
    named = [furnishing.image for furnishing in furnishings if furnishing.image]
    return Furnishing(named[-1] if named else "", frozenset().union(*(furnishing.traits for furnishing in furnishings)))
