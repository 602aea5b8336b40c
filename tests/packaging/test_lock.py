"""What rented hosts install is pinned by version and hash, complete, and never brings torch."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tools import lock

from gpurent_remote.bundle import build


@pytest.fixture(scope="module")
def entries() -> list[tuple[Requirement, list[str]]]:
    """Every pin with its hashes."""
    text = re.sub(r"^#.*\n", "", lock.LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement, *hashes = line.split(" --hash=sha256:")
        found.append((Requirement(requirement), [one.strip() for one in hashes]))
    return found


def pinned(entries: list[tuple[Requirement, list[str]]], python: str) -> dict[str, str]:
    """Name and version of all that a host with that Python installs."""
    return {
        canonicalize_name(one.name): next(iter(one.specifier)).version
        for one, _ in entries
        if lock.applies(one, python)
    }


def test_every_pin_is_exact_and_has_a_digest(entries: list[tuple[Requirement, list[str]]]) -> None:
    """One for each wheel that pip may choose."""
    for requirement, hashes in entries:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version
        assert hashes and all(re.fullmatch(r"[0-9a-f]{64}", one) for one in hashes)
        assert len(set(hashes)) == len(hashes) and requirement.url is None


@pytest.mark.parametrize("python", lock.PYTHONS)
def test_the_lock_covers_what_the_engine_asks_for(entries: list[tuple[Requirement, list[str]]], python: str) -> None:
    """On every Python that images have; a package is pinned once."""
    found = pinned(entries, python)
    assert len([one for one, _ in entries if lock.applies(one, python)]) == len(found)
    for one in lock.asked(lock.ASKED.read_text(encoding="utf-8")):
        if lock.applies(one, python):
            assert one.specifier.contains(found[canonicalize_name(one.name)]), one


def test_nothing_is_left_for_pip_to_choose(entries: list[tuple[Requirement, list[str]]]) -> None:
    """What pinned packages depend on is pinned too, and fits, as far as the same release is installed here."""
    found = pinned(entries, "3.11")
    checked = 0
    for name, version in found.items():
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed.version != version:
            continue
        for one in map(Requirement, installed.requires or []):
            if lock.applies(one, "3.11") and canonicalize_name(one.name) not in lock.NEVER:
                assert one.specifier.contains(found[canonicalize_name(one.name)]), f"{name} asks for {one}"
                checked += 1
    assert checked > 30


def test_torch_comes_with_the_image(entries: list[tuple[Requirement, list[str]]]) -> None:
    """Another one would be built for another CUDA, and has gigabytes."""
    names = {canonicalize_name(one.name) for one, _ in entries}
    assert names.isdisjoint({"torch", "triton", "torchvision"}) and not [one for one in names if "nvidia" in one]


def test_the_lock_travels_with_the_engine() -> None:
    """Hosts install from the file that lies beside it."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(build().data)) as bundle:
        assert bundle.read(f"gpurent_engine/{lock.LOCK.name}") == lock.LOCK.read_bytes()


def test_a_lock_says_for_which_pythons_each_release_is() -> None:
    """Equal releases share an entry; different wheels of one release give several digests."""
    pins = {
        "3.11": [lock.Pin("a", "1.0", "0" * 64), lock.Pin("b", "1", "1" * 64)],
        "3.12": [lock.Pin("a", "2.0", "2" * 64), lock.Pin("b", "1", "3" * 64)],
        "3.13": [lock.Pin("a", "2.0", "2" * 64), lock.Pin("b", "1", "1" * 64)],
    }
    text = lock.render(pins)
    assert 'a==1.0 ; python_version == "3.11" \\\n    --hash=sha256:' + "0" * 64 in text
    assert 'a==2.0 ; python_version >= "3.12" and python_version <= "3.13" \\\n    --hash=sha256:' + "2" * 64 in text
    assert text.count("b==1") == 1 and text.index("1" * 64) < text.index("3" * 64)
    assert Path(lock.LOCK).name == "requirements.lock"


SAFE = {
    "certifi": "2024.7.4", "cryptography": "44.0.1", "filelock": "3.20.3", "h11": "0.16", "idna": "3.7",
    "paramiko": "3.4", "pillow": "11.3", "requests": "2.32.4", "starlette": "0.49.1", "torch": "2.6",
    "transformers": "4.53", "urllib3": "2.5",
}  # fmt: skip
"""First releases without a hole that an advisory names; ``pyproject.toml`` says which for what we ask for ourselves."""


def test_no_release_with_a_known_hole_can_be_installed(
    entries: list[tuple[Requirement, list[str]]], repository: Path
) -> None:
    """Floors of ours, pins of `make`, pins of hosts."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [one for group in project["optional-dependencies"].values() for one in group] + project["dependencies"]
    for requirement in map(Requirement, asked):
        least = SAFE.get(canonicalize_name(requirement.name))
        floors = [Version(one.version) for one in requirement.specifier if one.operator == ">="]
        assert least is None or max(floors) >= Version(least), requirement
    pins = lock.asked((repository / "constraints.txt").read_text(encoding="utf-8")) + [one for one, _ in entries]
    for requirement in pins:
        least = SAFE.get(canonicalize_name(requirement.name))
        assert least is None or Version(next(iter(requirement.specifier)).version) >= Version(least), requirement
