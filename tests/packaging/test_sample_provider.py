"""The sample of *Write a provider*: built, installed where nothing else is, found by gpurent, and put to the suite."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "examples" / "sample-provider"
PAGE = ROOT / "docs" / "how-to" / "write-a-provider.md"


def run(*argv: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(one) for one in argv], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has what this one has, and the sample's wheel."""
    folder = tmp_path_factory.mktemp("sample")
    source = shutil.copytree(SAMPLE, folder / "source")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    built = run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("gpurent_acme-*.whl")
    venv.create(folder / "venv", symlinks=True)
    here = folder / "venv" / "bin" / "python"
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    seen = [sysconfig.get_path("purelib"), *(str(ROOT / name) for name in ("src", "providers", "remote"))]
    (site / "gpurent-of-the-tests.pth").write_text("".join(f"{path}\n" for path in seen), encoding="utf-8")
    installed = run(*pip, "--python", here, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return here


def test_the_sample_passes_the_suite_that_our_own_adapters_pass(python: Path, tmp_path: Path) -> None:
    """Every test of the conformance suite, none skipped."""
    shutil.copytree(SAMPLE / "tests", tmp_path / "tests")
    ended = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    passed = re.search(r"(\d+) passed in", ended.stdout)
    assert passed is not None and int(passed[1]) >= 50 and "skipped" not in ended.stdout


def test_gpurent_finds_the_sample_by_its_entry_point(python: Path, tmp_path: Path) -> None:
    """It is listed among the providers, and says what it lacks."""
    ended = run(
        python, "-m", "gpurent.cli.app", "providers", "--json", cwd=tmp_path, GPURENT_STATE_DIR=str(tmp_path / "state")
    )
    assert ended.returncode == 0, ended.stderr
    said = {one["name"]: one["message"] for one in json.loads(ended.stdout)["problems"]}
    assert "ACME" in said["acme"]


def test_the_page_quotes_the_sample() -> None:
    """Each block that names a file stands in that file, word for word."""
    quoted = re.findall(r"<!-- from: (\S+) -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(quoted) >= 4
    for name, text in quoted:
        assert text in (SAMPLE / name).read_text(encoding="utf-8"), name
