"""What rented hosts install is pinned by version and hash, complete, and never brings torch."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from tools import lock

from gpurent_engine.doctor import LEAST
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
    found = lock.pinned(python)
    assert len([one for one, _ in entries if lock.applies(one, python)]) == len(found)
    for one in lock.asked(lock.ASKED.read_text(encoding="utf-8")):
        if lock.applies(one, python):
            assert one.specifier.contains(found[canonicalize_name(one.name)]), one


@pytest.fixture(scope="module")
def releases() -> dict[str, dict[str, Any]]:
    """What every pin, and every torch that images bring, asks for: recorded by ``python -m tools.lock``."""
    found: dict[str, dict[str, Any]] = json.loads(lock.RECORD.read_text(encoding="utf-8"))
    return found


def test_the_record_is_of_this_lock(releases: dict[str, dict[str, Any]]) -> None:
    """A pin that changes has what the new one asks for recorded with it."""
    pins = {f"{name}=={version}" for python in lock.PYTHONS for name, version in lock.pinned(python).items()}
    assert {one for one in releases if not one.startswith("torch==")} == pins
    minors = {".".join(one.removeprefix("torch==").split(".")[:2]) for one in releases if one.startswith("torch==")}
    assert minors == set(lock.TORCHES) and Version(min(lock.TORCHES, key=Version)).release == LEAST["torch"]


@pytest.mark.parametrize("torch", lock.TORCHES)
@pytest.mark.parametrize("python", lock.PYTHONS)
def test_pins_python_and_torch_fit_together(releases: dict[str, dict[str, Any]], python: str, torch: str) -> None:
    """Every release takes this Python; whatever it asks for is pinned, in the range that it takes, or is this torch."""
    pins = lock.pinned(python)
    (image,) = [one for one in releases if one.startswith(f"torch=={torch}.")]
    chosen = {**pins, "torch": image.removeprefix("torch==")}
    asked = 0
    for release in (image, *(f"{name}=={version}" for name, version in pins.items())):
        facts = releases[release]
        assert SpecifierSet(facts["requires_python"]).contains(f"{python}.0"), release
        for taken in facts["torch"]:
            assert SpecifierSet(taken).contains(chosen["torch"]), f"{release} works with torch {taken}"
        for one in map(Requirement, facts["requires"]):
            name = canonicalize_name(one.name)
            if not lock.applies(one, python) or (release == image and name not in chosen):
                continue  # what torch alone asks for comes with the image
            assert one.specifier.contains(chosen[name], prereleases=True), f"{release} asks for {one}"
            asked += 1
    assert asked > 60 and python in releases[image]["pythons"]


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
