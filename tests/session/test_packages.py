"""What the engine needs and an image lacks is installed into an environment of ours: by digest, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pip
import pytest

from gpurent.jobs.packages import NO_PIP, install, unfit
from gpurent.spi import Runtime


def wheel(folder: Path, name: str, version: str, requires: str = "") -> str:
    """A wheel of one module that says its version; returns its sha256."""
    dist = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{dist}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{dist}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }

    def line(path: str, text: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        return f"{path},sha256={digest},{len(text.encode())}\n"

    files[f"{dist}/RECORD"] = "".join(line(*one) for one in files.items()) + f"{dist}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Machine:
    """An image whose Python is a virtual environment with an old package of its own, as Vast.ai's is."""

    def __init__(self, folder: Path) -> None:
        self.home, self.index, self.engine = folder / "home", folder / "index", folder / "engine"
        for one in (self.home, self.index, self.engine / "gpurent_engine"):
            one.mkdir(parents=True)
        self.image = folder / "image"
        venv.create(self.image, with_pip=False)
        self.site = next((self.image / "lib").glob("python3.*/site-packages"))
        (self.site / "torch.py").write_text("version = 'of the image'\n")
        (self.site / "pip").symlink_to(Path(pip.__file__).parent)  # and nothing else of what is installed here
        self.python = self.image / "bin" / "python"

    @property
    def runtime(self) -> Runtime:
        return Runtime(str(self.python), (3, 12), "2.8.0", str(self.home))

    @property
    def ours(self) -> Path:
        return self.home / ".gpurent/venv/bin/python"

    def lock(self, *lines: str) -> None:
        (self.engine / "gpurent_engine/requirements.lock").write_text("\n".join(lines) + "\n")

    def install(self, **env: str) -> subprocess.CompletedProcess[str]:
        (self.home / ".gpurent").mkdir(exist_ok=True)
        given = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.home),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.index),
        }
        return subprocess.run(
            ["/bin/sh", "-c", install(str(self.engine), self.runtime)], env=given | env, cwd="/", check=False,
            capture_output=True, text=True,
        )  # fmt: skip

    def says(self, program: str) -> str:
        return subprocess.run([self.ours, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_packages_are_installed_beside_the_image_and_see_what_it_has(machine: Machine) -> None:
    """torch stays the image's; nothing is written into the image; a second run changes nothing."""
    digest = wheel(machine.index, "diffusers", "0.42.1", "Requires-Dist: torch>=99\n")
    machine.lock(f"diffusers==0.42.1 --hash=sha256:{digest}")

    def image() -> list[Path]:
        return sorted(one for one in machine.site.iterdir() if one.name != "__pycache__")  # Python's, not ours

    before = image()
    for _ in range(2):
        ended = machine.install()
        assert ended.returncode == 0, ended.stdout + ended.stderr
    program = "import diffusers, torch; print(diffusers.version, torch.version, diffusers.__file__)"
    version, *rest = machine.says(program).split(" ", 1)
    assert version == "0.42.1" and "of the image" in rest[0] and str(machine.home) in rest[0]
    assert image() == before
    assert (machine.home / ".gpurent/venv/ready").exists()


def test_what_does_not_have_its_digest_is_not_installed(machine: Machine) -> None:
    """A package index is not trusted; and an incomplete environment is not taken for a complete one."""
    wheel(machine.index, "diffusers", "0.42.1")
    machine.lock(f"diffusers==0.42.1 --hash=sha256:{'0' * 64}")
    ended = machine.install()
    assert ended.returncode != 0 and "HASH" in ended.stdout + ended.stderr
    assert not (machine.home / ".gpurent/venv/ready").exists()


def test_what_an_image_says_to_pip_does_not_bend_an_installation(machine: Machine, tmp_path: Path) -> None:
    """NVIDIA's images pin versions by PIP_CONSTRAINT; others install for a user or into a folder."""
    digest = wheel(machine.index, "diffusers", "0.42.1")
    machine.lock(f"diffusers==0.42.1 --hash=sha256:{digest}")
    (tmp_path / "constraint.txt").write_text("diffusers==0.1\n")
    ended = machine.install(
        PIP_CONSTRAINT=str(tmp_path / "constraint.txt"), PIP_USER="1", PIP_TARGET=str(tmp_path / "t")
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert machine.says("import diffusers; print(diffusers.version)") == "0.42.1"


def test_an_installation_that_broke_off_starts_again(machine: Machine) -> None:
    """Half an environment from before a cut."""
    digest = wheel(machine.index, "diffusers", "0.42.1")
    machine.lock(f"diffusers==0.42.1 --hash=sha256:{digest}")
    (machine.home / ".gpurent/venv/bin").mkdir(parents=True)
    (machine.home / ".gpurent/venv/bin/python").write_text("half")
    assert machine.install().returncode == 0


@pytest.mark.parametrize(
    ("status", "said", "trait", "image"),
    [
        (NO_PIP, "gpurent: the image has no pip", "no_pip", True),
        (1, "Retrying ... [Errno -3] Temporary failure in name resolution", "no_network", False),
        (1, "ERROR: No matching distribution found for diffusers==0.42.1", "packages", True),
        (1, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "packages", False),
        (-1, "it took longer than 1200 s", "packages", False),
    ],
)
def test_why_nothing_was_installed_is_told_apart(status: int, said: str, trait: str, image: bool) -> None:
    """An image's fault ends the run after two machines; a machine's leaves that machine out."""
    found = unfit(status, said)
    assert (found.trait, found.image) == (trait, image)


def test_this_computers_python_can_be_asked_for_what_is_lacking() -> None:
    """The very command that a host runs."""
    ended = subprocess.run(
        [sys.executable, "-m", "gpurent_engine", "doctor", "--quick"], capture_output=True, check=False
    )
    assert ended.returncode == 0
