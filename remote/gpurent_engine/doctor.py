"""``doctor``: says whether this machine can train. Every rented machine is asked, so it imports next to nothing."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpurent_engine import PROTOCOL, __version__
from gpurent_engine.pictures import HEIC_PACKAGE

LEAST: dict[str, tuple[int, ...]] = {
    "accelerate": (1, 0), "diffusers": (0, 35), "numpy": (1, 26), "peft": (0, 17), "pillow": (11, 3),
    "safetensors": (0, 4, 3), "torch": (2, 6), "transformers": (4, 53),
}  # fmt: skip
"""The oldest releases that the engine runs on. transformers 5.23 ignores a torch before 2.6."""
LEAST_WITH_CUDA: dict[str, tuple[int, ...]] = {"bitsandbytes": (0, 45)}
"""What it asks for besides where torch is built for CUDA."""
LEAST_ON_DEMAND: dict[str, tuple[int, ...]] = {HEIC_PACKAGE: (1, 0)}
"""What only some datasets need."""


def add(commands: Any) -> None:
    """The command, to the subparsers of ``argparse``."""
    doctor = commands.add_parser("doctor", help="say whether this machine can train")
    doctor.add_argument("--json", action="store_true")
    doctor.add_argument("--quick", action="store_true", help="only whether the packages are there; imports nothing")
    doctor.add_argument(
        "--also", action="append", default=[], choices=sorted(LEAST_ON_DEMAND), help="a package that this dataset needs"
    )
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    facts: dict[str, Any] = {"engine": __version__, "protocol": PROTOCOL, "python": platform.python_version()}
    if options.quick:
        lacking = _lacking(options.also)
        print(f"not installed: {', '.join(lacking)}" if lacking else "all packages are there")
        return 1 if lacking else 0
    try:
        import accelerate
        import diffusers
        import peft
        import safetensors
        import torch
        import transformers
    except ImportError as error:
        facts["missing"] = str(error)
    else:
        for module in (accelerate, diffusers, peft, safetensors, torch, transformers):
            facts[module.__name__] = module.__version__
        facts["cuda"] = torch.cuda.is_available()
        facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    facts["disk_free_gb"] = round(shutil.disk_usage(Path.cwd()).free / 1e9, 1)
    print(json.dumps(facts) if options.json else "\n".join(f"{key}: {value}" for key, value in facts.items()))
    return 1 if "missing" in facts else 0


def _lacking(also: Sequence[str] = ()) -> list[str]:
    """What is not installed, or only in an older version; imports nothing, which would take long."""
    least_of = LEAST if _without_cuda() else LEAST | LEAST_WITH_CUDA
    least_of = least_of | {name: LEAST_ON_DEMAND[name] for name in also}
    wanted = {name: ".".join(map(str, least)) for name, least in least_of.items() if _version(name) < least}
    return [f"{name}>={least}" for name, least in wanted.items()]


def _without_cuda() -> bool:
    """Whether torch says by its version that it is built for CPUs only."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return True


def _version(name: str) -> tuple[int, ...]:
    try:
        return _numbers(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return ()


def _numbers(version: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` as (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", version.partition("+")[0])[:3])
