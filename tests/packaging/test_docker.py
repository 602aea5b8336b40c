"""The engine image that is described in ``docker/``: built nowhere here, and held to what hosts install."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from gpurent.model import capabilities_of, cuda_of
from gpurent.settings import DEFAULT_IMAGE
from gpurent_engine.doctor import LEAST, LEAST_ON_DEMAND, LEAST_WITH_CUDA


def instructions(repository: Path) -> list[tuple[str, str]]:
    """Instruction and arguments, with lines that go on put together."""
    text = (repository / "docker/Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines()]


def test_it_starts_from_the_default_image(repository: Path) -> None:
    """What trains in one trains in the other, and a tag like the base's tells CUDA's version."""
    kind, base = instructions(repository)[0]
    assert (kind, base) == ("FROM", DEFAULT_IMAGE)
    assert cuda_of("you/gpurent-engine:2.8.0-cuda12.8") == cuda_of(DEFAULT_IMAGE) == (12, 8)
    assert capabilities_of(base)[0] == (7, 0)


def test_it_installs_what_a_host_installs_and_as_a_host_does(repository: Path) -> None:
    """The lock, by digest, without dependencies of its own choice; no torch is pulled in."""
    steps = [text for kind, text in instructions(repository) if kind == "RUN"]
    (install,) = [text for text in steps if "pip install" in text]
    for option in ("--no-deps", "--only-binary=:all:", "--require-hashes", "-r /tmp/requirements.lock"):
        assert option in install
    copied = [text for kind, text in instructions(repository) if kind == "COPY"]
    assert copied == ["remote/gpurent_engine/requirements.lock /tmp/requirements.lock"]
    lock = (repository / "remote/gpurent_engine/requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"^(torch|triton|nvidia-)", lock, re.MULTILINE)


def test_a_linter_has_nothing_against_it(repository: Path) -> None:
    """hadolint, with every rule; what is allowed all the same is allowed where it stands, with the reason."""
    program = shutil.which("hadolint", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("its wheels are for Linux on x86-64")
    ended = subprocess.run(
        [program, "--failure-threshold", "style", "--no-color", "docker/Dockerfile"], cwd=repository,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "")


def test_what_it_installs_is_what_the_engine_asks_for(repository: Path) -> None:
    """Every package that ``doctor`` looks for is in the lock or the base image, and new enough there."""
    lock = (repository / "remote/gpurent_engine/requirements.lock").read_text(encoding="utf-8")
    pinned: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+) ;", lock, re.MULTILINE):
        pinned.setdefault(canonicalize_name(name), []).append(version)
    torch = re.search(r":(\d+\.\d+\.\d+)-", DEFAULT_IMAGE)
    assert torch is not None
    pinned["torch"] = [torch[1]]
    for name, least in (LEAST | LEAST_WITH_CUDA | LEAST_ON_DEMAND).items():
        assert name in pinned, f"{name} is not in the image"
        for version in pinned[name]:
            assert Version(version).release >= least, f"{name} {version}"


def test_it_leaves_no_key_and_no_cache(repository: Path) -> None:
    """Every machine makes host keys of its own; what apt and pip keep is not shipped."""
    text = " ".join(text for _, text in instructions(repository))
    assert "/etc/ssh/ssh_host_*" in text and "--no-cache-dir" in text and "rm -rf /var/lib/apt/lists/*" in text
    assert all(kind in {"FROM", "SHELL", "COPY", "RUN"} for kind, _ in instructions(repository))
