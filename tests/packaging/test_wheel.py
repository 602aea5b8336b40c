"""What ``pip install gpurent`` gives: the wheel is built once, looked into, and installed where nothing else is."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import gpurent
from gpurent.cli.help import KINDS

ROOT = Path(__file__).parents[2]
HOMES = {
    "gpurent": "src", "gpurent_sandbox": "src", "gpurent_providers": "providers",
    "gpurent_remote": "remote", "gpurent_engine": "remote", "gpurent_deadman": "remote",
}  # fmt: skip
NOT_FOR_EVERYBODY = {
    "torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "starlette", "uvicorn", "asyncssh", "pytest",
}  # fmt: skip


def pip(*arguments: str, python: Path = Path(sys.executable), cwd: Path = ROOT) -> None:
    ended = subprocess.run(
        [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def sources() -> list[str]:
    """Files of a clean clone, as they are in this working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources alone."""
    folder = tmp_path_factory.mktemp("clone")
    for name in sources():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a user builds it; the sources are exactly what they were before."""
    before = files_below(clone)
    out = tmp_path_factory.mktemp("dist")
    pip("wheel", ".", "--no-deps", "--wheel-dir", str(out), cwd=clone)
    assert files_below(clone) == before
    (built,) = out.iterdir()
    return built


INSTALLED = pytest.mark.thorough(shown_by="tests/packaging/test_wheel.py::test_the_wheel_is_well_formed")
"""An installation from nothing takes as long as ten other tests."""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of a new environment that holds the wheel and its base dependencies at our pins."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    python, pins = str(folder / "bin" / "python"), str(ROOT / "constraints.txt")
    pip("--python", python, "install", "--no-compile", "--constraint", pins, str(wheel))
    return folder / "bin"


def run(program: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "GPURENT_STATE_DIR": str(folder / "state"),
        "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9",
    }  # fmt: skip
    return subprocess.run(
        [program, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_wheel_is_well_formed(wheel: Path) -> None:
    """Pure Python for every platform, and check-wheel-contents has nothing to say."""
    assert re.fullmatch(r"gpurent-[0-9.]+-py3-none-any\.whl", wheel.name)
    checker = Path(sys.executable).parent / "check-wheel-contents"
    ended = subprocess.run([checker, wheel], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_the_wheel_holds_the_six_packages_their_pages_and_nothing_else(wheel: Path) -> None:
    """Every file below the package roots with its bytes and the pages of the manual, no test, no example, no cache."""
    expected = {}
    for name in sources():
        for package, home in HOMES.items():
            if name.startswith(f"{home}/{package}/"):
                expected[name.removeprefix(f"{home}/")] = (ROOT / name).read_bytes()
        if name.startswith(tuple(f"docs/{kind}/" for kind in KINDS)):
            expected[name.replace("docs/", "gpurent/pages/", 1)] = (ROOT / name).read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert set(held) == set(expected)
    assert held == expected
    assert {"gpurent_engine/loop.py", "gpurent_deadman/deadman.py", "gpurent/plan/prices.toml"} <= set(held)
    assert {f"{package}/py.typed" for package in HOMES} <= set(held)
    assert "gpurent_sandbox/adapter/provider.py" in held


def test_the_wheel_says_who_may_use_it_and_how_it_is_started(wheel: Path) -> None:
    """Licence and notice are in it, with words in them; so are the command and the entry points."""
    with zipfile.ZipFile(wheel) as archive:
        texts = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "Apache License" in texts["LICENSE"]
    assert "Noto" in texts["NOTICE"] and "Fluent" in texts["NOTICE"]
    for line in ("gpurent = gpurent.cli.app:main", "[gpurent.providers]", "ssh = gpurent_remote:SshConnector"):
        assert line in texts["entry_points.txt"]
    assert "Requires-Python: >=3.11" in texts["METADATA"]


@INSTALLED
def test_a_base_install_starts_and_quotes_without_torch(installed: Path, tmp_path: Path) -> None:
    """In an empty environment without a network: help, a page, a quote, a check of the set-up, nothing else."""
    helped = run(installed / "gpurent", "--help", folder=tmp_path)
    assert helped.returncode == 0 and "quote" in helped.stdout, helped.stderr
    page = run(installed / "gpurent", "help", "vast", folder=tmp_path)
    assert page.returncode == 0 and page.stdout.startswith("# Rent from Vast.ai"), page.stderr
    quoted = run(installed / "gpurent", "quote", "--gpu", "4090", "--images", "50", folder=tmp_path)
    assert quoted.returncode == 0 and "RTX 4090" in quoted.stdout, quoted.stderr
    pip = (Path(sys.executable), "-m", "pip", "--python", str(installed / "python"))
    listed = run(*pip, "list", "--format=json", folder=tmp_path)
    names = {one["name"].lower() for one in json.loads(listed.stdout)}
    assert names & NOT_FOR_EVERYBODY == set()


@INSTALLED
def test_a_base_install_says_what_an_extra_would_add(installed: Path, tmp_path: Path) -> None:
    """The sandbox is an extra: without it the command names the one line that installs it."""
    ended = run(installed / "gpurent", "sandbox", "up", folder=tmp_path)
    assert ended.returncode == 2
    assert "pip install 'gpurent[sandbox]'" in ended.stderr
    doctor = run(installed / "gpurent", "doctor", folder=tmp_path)
    assert doctor.returncode == 1
    assert "local engine: not installed; only sample grids need it" in doctor.stdout


@INSTALLED
def test_a_base_install_checks_a_job(installed: Path, tmp_path: Path) -> None:
    """Everything that planning a training needs is there without the engine's libraries."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    config = tmp_path / "examples" / "fluent-style" / "training_config.toml"
    ended = run(
        installed / "gpurent", "train", "--budget", "5", "--dry-run", "--config", str(config),
        "--dataset", str(config.parent / "training_data"), folder=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "fluent3d: 30 images" in ended.stdout


def test_every_exported_name_can_be_imported() -> None:
    """What the package lists, it has; what it does not have is an ordinary AttributeError."""
    assert "Broker" in gpurent.__all__
    for name in gpurent.__all__:
        assert getattr(gpurent, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = gpurent.Nothing


@pytest.mark.parametrize("package", HOMES)
def test_every_package_describes_itself(package: str) -> None:
    """Each of the six roots can be imported on its own and says what it is for."""
    module = importlib.import_module(package)
    assert module.__doc__


def test_constraints_pin_names_and_nothing_of_one_computer() -> None:
    """Every line is name==version: a path or an editable install would break the set-up everywhere else."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", pin)] == []
