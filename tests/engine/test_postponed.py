"""What the engine's start imports, and that a package which waits is still the whole package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpurent_engine import postponed

UNWANTED = ("scipy", "sklearn", "tensorflow", "pandas",
            "diffusers.models.unets.unet_1d", "diffusers.models.transformers.transformer_flux",
            "diffusers.pipelines.pipeline_utils")  # fmt: skip


def test_a_start_imports_no_other_models() -> None:
    program = f"""
import sys
from collections.abc import Iterator
import gpurent_engine.loop
import torch
from gpurent_engine.families import classes
unet, vae, (clip, _) = classes.unet(), classes.vae(), classes.clip(projected=True)
assert (unet.__name__, vae.__name__, clip.__name__) == (
    "UNet2DConditionModel", "AutoencoderKL", "CLIPTextModelWithProjection")
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.AdamW([weight], lr=0.1)
weight.grad = torch.ones(3)
optimizer.step()
assert float(weight[0]) < 1
found = [name for name in {UNWANTED!r} if name in sys.modules]
assert not found, found
# ... and what waits comes when it is asked for
import diffusers.models.unets, diffusers
assert diffusers.models.unets.UNet1DModel and diffusers.UNet2DConditionModel is unet
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "gpurent_tested_package"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("from .part import value\nwhole = True\n")
    (folder / "part.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for one in [one for one in sys.modules if one.partition(".")[0] == name]:
        del sys.modules[one]


def test_a_submodule_of_a_waiting_package_is_imported_alone(package: str) -> None:
    postponed.postpone(package)
    part = __import__(f"{package}.part", fromlist=["value"])
    assert part.value == 7
    assert package in postponed.waiting()


def test_a_waiting_package_runs_when_a_name_of_it_is_wanted(package: str) -> None:
    postponed.postpone(package)
    whole = __import__(package)
    assert whole.whole and whole.value == 7
    assert package not in postponed.waiting()
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        _ = whole.other


def test_what_is_not_installed_or_already_there_does_not_wait() -> None:
    postponed.postpone("gpurent_no_such_package.part")
    postponed.postpone("gpurent_no_such_package")
    postponed.postpone("pathlib")
    assert not {"gpurent_no_such_package", "pathlib"} & set(postponed.waiting())
