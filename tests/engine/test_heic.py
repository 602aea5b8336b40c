"""Pictures of phones, with the package that reads them and without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.dataset.world import config, dataset

from gpurent.dataset.job import Job
from gpurent.jobs import packages
from gpurent.spi import Runtime
from gpurent_engine import pictures

pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
RED = (200, 30, 40)


def photograph(path: Path, size: tuple[int, int] = (96, 64), orientation: int = 1) -> Path:
    """A red picture with a blue corner at the upper left."""
    pillow_heif.register_heif_opener()
    picture = Image.new("RGB", size, RED)
    picture.paste((20, 40, 220), (0, 0, size[0] // 2, size[1] // 2))
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    picture.save(path, "HEIF", quality=95, exif=exif)
    return path


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photograph_is_read_as_a_viewer_shows_it(tmp_path: Path, orientation: int) -> None:
    """HEIC says itself how it is turned, and phones say it in the EXIF data once more: that is not applied again."""
    path = photograph(tmp_path / "IMG_0001.HEIC", orientation=orientation)
    opened = pictures.read(path)
    assert opened.image.mode == "RGB" and opened.image.size == pictures.size(path) == (96, 64)
    blue, red = opened.image.getpixel((4, 4)), opened.image.getpixel((48, 60))
    assert isinstance(blue, tuple) and isinstance(red, tuple) and blue[2] > 150 > blue[0] and red[0] > 150 > red[2]
    with path.open("rb") as file:
        pictures.verify(file)


def test_a_damaged_photograph_is_told(tmp_path: Path) -> None:
    """As any other picture."""
    path = photograph(tmp_path / "a.heic")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"x" * 40, whole[:12]):
        path.write_bytes(content)
        with pytest.raises(pictures.Unreadable):
            pictures.read(path)


def test_a_dataset_with_photographs_asks_its_host_for_the_package(tmp_path: Path) -> None:
    """And no other dataset does."""
    folder = dataset(tmp_path / "training_data", 2) / "10_sks_cat"
    assert Job.from_config(config(tmp_path)).packages == frozenset()
    photograph(folder / "IMG_0001.HEIC", (600, 600))
    (folder / "IMG_0001.txt").write_text("sks cat", encoding="utf-8")
    made = Job.from_config(config(tmp_path))
    assert made.packages == {"pillow-heif"} and len(made.dataset.images) == 3
    runtime = Runtime("/opt/my python", (3, 11), "2.8.0", "/root")
    assert packages.check("/e", runtime, made.packages).endswith(
        "'/opt/my python' -m gpurent_engine doctor --quick --also pillow-heif"
    )


def test_a_host_without_the_package_is_found_out(repository: Path) -> None:
    """``doctor`` names it only where it is asked for."""
    for also in ((), ("--also", "pillow-heif")):
        ended = subprocess.run(
            [sys.executable, "-S", "-m", "gpurent_engine", "doctor", "--quick", *also],
            env={"PYTHONPATH": str(repository / "remote")}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert ended.returncode == 1 and ("pillow-heif>=1.0" in ended.stdout) == bool(also), ended.stderr


def test_without_the_package_they_are_left_out_and_the_way_out_is_named(tmp_path: Path) -> None:
    """In a Python that cannot import it."""
    folder = dataset(tmp_path / "training_data", 2) / "10_sks_cat"
    photograph(folder / "IMG_0001.HEIC")
    config(tmp_path)
    program = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from gpurent import Job\n"
        f"print(*Job.from_config({str(tmp_path / 'training_config.toml')!r}).warnings)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert "1 image left out, because HEIC is read with pillow-heif only: 10_sks_cat/IMG_0001.HEIC." in ended.stdout
    assert "pip install 'gpurent[heic]'" in ended.stdout, ended.stderr
