"""Puts an image onto a machine's file system: interpreters, environment, tools, and what its traits make of them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from gpurent.plan.gpus import capability
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.images import Image, Trait

PROGRAM = "bin/python3"
"""The Python behind every interpreter of an image; in nobody's PATH."""
SIMULATED = "usr/lib/simulated"
"""What stands in for hardware in a machine's Python, except for the training engine."""
_LEAN = "usr/lib/lean"
_LACKING = "usr/lib/lacking"
"""In the path of the asking account what is installed."""
_TOOLS = ("/bin", "/usr/bin")
_NOT_TOOLS = ("python", "pip", "apt", "conda", "sshd", "nvidia-smi")
SSHD_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin")
"""What sshd gives a session; ``/bin`` is ``/usr/bin``, as in every distribution of today."""
CUDA, DRIVER = (12, 8), "570.124.06"
OLD_CUDA, OLD_DRIVER = (11, 4), "470.256.02"
AHEAD_S = 3 * 3600
RAM_2_GB = 2 * 1024**3
SLOW_BYTES_S = 25e6 / 8


def python(engine: Sequence[str]) -> str:
    """The text of a program that is Python on a host, and ``engine`` where the training engine is asked for."""
    trains = " | ".join(f'*" -m gpurent_engine {name} "*' for name in ("train", "serve", "grid"))
    stub = f'case " $* " in {trains}) exec {shlex.join(engine)} "$@" ;; esac\n' if engine else ""
    simulated = f'PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}${{GPURENT_ROOT:-}}/{SIMULATED}"; export PYTHONPATH'
    real = f'case " $* " in *" -m gpurent_engine "*) ;; *) {simulated} ;; esac; exec {shlex.quote(sys.executable)} "$@"'
    lacking = f'PYTHONPATH="$PYTHONPATH:${{GPURENT_ROOT:-}}/{_LACKING}"'
    asked = f'case " $* " in *" -m gpurent_engine doctor "*) {lacking} ;; esac'
    return f"#!/bin/sh\n{stub}{asked}\n{real}\n"


def lay_out(root: Path, image: Image) -> None:
    """Interpreters where the image has them."""
    for folder in SSHD_PATH:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for interpreter in image.interpreters:
        _program(
            root / interpreter.path,
            f'exec "{root / PROGRAM}" "$@"' if interpreter.complete else _lean(root, interpreter.version),
        )


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def _lean(root: Path, version: str) -> str:
    """A Python without packages."""
    folder = root / f"{_LEAN}-{version or 'any'}"
    folder.mkdir(parents=True, exist_ok=True)
    said = f"sys.version_info = ({version.replace('.', ', ')}, 12)\n" if version else ""
    text = f"import sys\nsys.path[:] = [p for p in sys.path if '-packages' not in p]\n{said}"
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    base = getattr(sys, "_base_executable", sys.executable)
    return f'PYTHONPATH={shlex.quote(str(folder))} exec {shlex.quote(base)} -s "$@"'


def toolbox(folder: Path, image: Image) -> Path:
    """A folder of links to this computer's everyday programs: all machines with an image share it.

    What only an image brings is not among them, nor what this one lacks.
    """
    tools = folder / image.name
    if not tools.is_dir():
        tools.mkdir(parents=True)
        found = {tool.name: str(tool) for place in map(Path, _TOOLS) if place.is_dir() for tool in place.iterdir()}
        for name, path in found.items():
            if not name.startswith(_NOT_TOOLS) and name not in image.missing:
                os.symlink(path, f"{tools}/{name}")  # noqa: PTH211 a thousand links: pathlib takes five times as long
    return tools


def hardware(root: Path, machine: Machine, gpu: str, count: int, *, traits: frozenset[Trait]) -> None:
    """What the machine's Python and ``nvidia-smi`` say of GPU, memory, clock and network."""
    simulated = root / SIMULATED
    simulated.mkdir(parents=True, exist_ok=True)
    (simulated / "torch.py").write_bytes((files("gpurent_sandbox") / "standin.py").read_bytes())
    patches = _clock(traits) + (_NO_DNS if Trait.NO_DNS in traits else "")
    patches += _SLOW if Trait.SLOW_LINK in traits else ""
    if patches:
        (simulated / "sitecustomize.py").write_text(patches, encoding="utf-8")
    if Trait.NO_PACKAGES in traits:
        (root / _LACKING).mkdir(parents=True)
        (root / _LACKING / "sitecustomize.py").write_text(_NO_PEFT, encoding="utf-8")
    if Trait.RAM_2_GB in traits:
        limit = root / "sys/fs/cgroup/memory.max"
        limit.parent.mkdir(parents=True)
        limit.write_text(f"{RAM_2_GB}\n", encoding="utf-8")
    if Trait.READ_ONLY_WORKSPACE in traits:
        (root / "workspace").symlink_to("/proc/tty")  # nobody can create a file there, root included
    else:
        (root / "workspace").mkdir()
    if count and Trait.NO_CUDA not in traits:
        _gpu(root, machine, gpu, count, traits=traits)


def _gpu(root: Path, machine: Machine, gpu: str, count: int, *, traits: frozenset[Trait]) -> None:
    old = Trait.OLD_DRIVER in traits
    pascal = Trait.CAPABILITY_6_1 in traits
    facts: Mapping[str, object] = {
        "name": f"NVIDIA GeForce {gpu}" if gpu.startswith("RTX ") else f"NVIDIA {gpu}",
        "count": count,
        "capability": (6, 1) if pascal else capability(gpu) or (8, 6),
        "vram_mb": machine.vram_mb,
        "free_mb": 500 if Trait.VRAM_IN_USE in traits else machine.vram_mb - 300,
        "wrong": Trait.WRONG_RESULT in traits,
        "old_driver": old,
    }
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/gpu.json").write_text(json.dumps(facts), encoding="utf-8")
    driver, (major, minor) = (OLD_DRIVER, OLD_CUDA) if old else (DRIVER, CUDA)
    said = f"| NVIDIA-SMI {driver}   Driver Version: {driver}   CUDA Version: {major}.{minor} |\n{facts['name']}"
    _program(root / "usr/local/bin/nvidia-smi", f"cat <<'E'\n{said}\nE")


def _clock(traits: frozenset[Trait]) -> str:
    shift = AHEAD_S * ((Trait.CLOCK_AHEAD in traits) - (Trait.CLOCK_BEHIND in traits))
    return f"import time\n_time = time.time\ntime.time = lambda: _time() + {shift}\n" if shift else ""


_NO_DNS = """\
import socket
_lookup = socket.getaddrinfo
def _fail(host, *given, **named):
    if host in (None, "localhost", b"localhost") or str(host)[:4] == "127.":
        return _lookup(host, *given, **named)
    raise socket.gaierror(-3, "Temporary failure in name resolution")
socket.getaddrinfo = _fail
"""


_SLOW = f"""\
import socket, time
_receive = socket.socket.recv_into
def _slowly(self, *given, **named):
    count = _receive(self, *given, **named)
    time.sleep(count / {SLOW_BYTES_S})
    return count
socket.socket.recv_into = _slowly
"""


_NO_PEFT = """\
import importlib.metadata as metadata, os
_version = metadata.version
def _installed(name):
    if name == "peft" and not os.path.exists(os.path.expanduser("~/.gpurent/venv/ready")):
        raise metadata.PackageNotFoundError(name)
    return _version(name)
metadata.version = _installed
"""
