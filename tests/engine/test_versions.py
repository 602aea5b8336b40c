"""The engine on the oldest packages that it promises to run on gives what it gives on the newest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import load_file
from tests.engine import tiny_families
from tests.engine.run import events, spec
from tools.oldest import pins

ROOT = Path(__file__).parents[2]
OLDEST = ROOT / ".venv-oldest" / "bin" / "python"


def train(python: Path, base: Path, pictures: Path, out: Path, keys: dict[str, Any]) -> list[dict[str, Any]]:
    """Train in a process of ``python``; return what it said."""
    out.mkdir(parents=True)
    job = {
        "protocol": 1, "spec": spec(**keys).to_dict(), "base_model": str(base), "data_dir": str(pictures),
        "out_dir": str(out), "events": str(out / "events.jsonl"), "resume": False,
    }  # fmt: skip
    (out / "job.json").write_text(json.dumps(job))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "remote"), "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"}
    command = [str(python), "-W", "ignore", "-m", "gpurent_engine", "train", "--job", str(out / "job.json")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return events(out / "events.jsonl")


@pytest.mark.skipif(not OLDEST.exists(), reason="`make oldest` installs the oldest packages")
@pytest.mark.parametrize("family", ["example", "sdxl"])
def test_the_oldest_packages_train_as_the_newest_do(pictures: Path, tmp_path: Path, family: str) -> None:
    """Same losses, same file, proven by both; bases as transformers 5 and diffusers of today save them."""
    installed = subprocess.run([OLDEST, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    found = [Requirement(one) for one in installed.splitlines() if "==" in one]
    have = {one.name.lower(): one.specifier for one in found}
    assert all(have[one.name].contains(str(one.specifier).removeprefix("==")) for one in map(Requirement, pins()))
    keys: dict[str, Any] = {"max_train_epochs": None, "max_train_steps": 4, "min_snr_gamma": 5.0}
    if family == "example":
        base, keys["resolution"] = ROOT / "examples" / "tiny-sd", 64
    else:
        base, keys["resolution"] = tiny_families.build(tmp_path / "base", family), 32
    told = {
        name: train(Path(python), base, pictures, tmp_path / name, keys)
        for name, python in (("old", OLDEST), ("new", Path(sys.executable)))
    }
    # Not every step is told: it depends on the time since the last one.
    losses = {name: {one["step"]: one["loss"] for one in said if one["event"] == "step"} for name, said in told.items()}
    both = losses["old"].keys() & losses["new"].keys()
    assert 4 in both
    assert all(losses["old"][step] == pytest.approx(losses["new"][step], abs=1e-5) for step in both)
    assert all(next(one for one in said if one["event"] == "proof")["ok"] for said in told.values())
    old, new = (load_file(tmp_path / name / "disc.safetensors") for name in ("old", "new"))
    assert old.keys() == new.keys() and all(torch.allclose(old[key], new[key], atol=1e-5) for key in new)
