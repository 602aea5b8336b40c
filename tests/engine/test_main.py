"""The engine as a program of its own: exit statuses, signals, events, standing alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.engine import tiny_families
from tests.engine.program import call, start
from tests.engine.run import events, spec

from gpurent_engine import export, networks
from gpurent_engine.__main__ import main
from gpurent_engine.doctor import LEAST
from gpurent_engine.families import loading

ENGINE = Path(__file__).parents[2] / "remote" / "gpurent_engine"


def afresh(*arguments: str, path: Path = ENGINE.parent, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As a host starts it, in a Python that has imported nothing yet."""
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "gpurent_engine", *arguments],
        check=False, capture_output=True, text=True, env=environment, cwd=cwd,
    )  # fmt: skip


def write_job(folder: Path, base: Path, pictures: Path, **changes: Any) -> Path:
    job = {
        "protocol": 1, "spec": spec(max_train_epochs=1).to_dict(), "base_model": str(base), "data_dir": str(pictures),
        "out_dir": str(folder / "out"), "events": str(folder / "events.jsonl"), "stop_file": str(folder / "stop"),
        "resume": False, **changes,
    }  # fmt: skip
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


def last_event(folder: Path) -> dict[str, Any]:
    return events(folder / "events.jsonl")[-1]


def test_it_runs_from_an_unpacked_bundle(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Zipped, unpacked elsewhere and run with PYTHONPATH, it trains; standard output stays empty."""
    with zipfile.ZipFile(tmp_path / "engine.zip", "w") as bundle:
        for file in ENGINE.rglob("*"):
            if "__pycache__" not in file.parts:
                bundle.write(file, file.relative_to(ENGINE.parent))
    with zipfile.ZipFile(tmp_path / "engine.zip") as bundle:
        bundle.extractall(tmp_path / "there")
    job = write_job(tmp_path, base_model, pictures)
    ended = afresh("train", "--job", str(job), path=tmp_path / "there", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    said = events(tmp_path / "events.jsonl")
    assert [said[0]["event"], said[-1]["event"]] == ["hello", "done"]
    assert (said[0]["protocol"], said[0]["device_name"]) == (1, "CPU") and said[0]["pid"] > 0
    assert (tmp_path / "out" / "disc.safetensors").exists()


def test_a_kohya_config_is_enough(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """``--config`` trains from a TOML file alone, with paths relative to it."""
    (tmp_path / "training_config.toml").write_text(
        f'[model]\npretrained_model_name_or_path = "{base_model}"\n[dataset]\ntrain_data_dir = "{pictures}"\n'
        'resolution = 32\nbatch_size = 3\n[training]\noutput_name = "x"\nmax_train_epochs = 1\nnetwork_dim = 2\n'
        'optimizer_type = "AdamW8bit"\nmixed_precision = "fp16"\n'
    )
    ended = call("train", "--config", str(tmp_path / "training_config.toml"))
    assert ended.returncode == 0, ended.stderr
    said = events(tmp_path / "output" / "events.jsonl")
    warned = {one["key"]: one["message"] for one in said if one["event"] == "warning"}
    assert set(warned) == {"mixed_precision", "optimizer_type"} and "float32" in warned["mixed_precision"]
    assert (tmp_path / "output" / "x.safetensors").exists()


def test_sigterm_saves_and_says_so(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """SIGTERM: the step is finished, LoRA and state are saved, status 4; resuming goes on from there."""
    job = write_job(tmp_path, base_model, pictures, spec=spec(max_train_epochs=4000).to_dict())
    engine = start("train", "--job", str(job), log=tmp_path / "log.txt")
    path = tmp_path / "events.jsonl"
    while engine.poll() is None and not (path.exists() and '"step"' in path.read_text()):
        time.sleep(0.05)
    engine.send_signal(signal.SIGTERM)
    assert engine.wait(timeout=300) == 4, (tmp_path / "log.txt").read_text()
    done = last_event(tmp_path)
    assert done["event"] == "done" and done["stopped"] and (tmp_path / "out" / done["files"][-1]).exists()
    (tmp_path / "stop").touch()
    job = write_job(tmp_path, base_model, pictures, spec=spec(max_train_epochs=4000).to_dict(), resume=True)
    assert call("train", "--job", str(job)).returncode == 4
    assert last_event(tmp_path)["steps"] == done["steps"] + 1


@pytest.mark.parametrize(
    ("changes", "status", "code", "says"),
    [
        ({"protocol": 99}, 2, "spec", "protocol"),
        ({"data_dir": "/nowhere"}, 2, "data", "does not exist"),
        ({"spec": {"pretrained_model_name_or_path": "x", "future": 1}}, 2, "spec", "future"),
        ({"base_model": "/nowhere/base"}, 1, "model", "/nowhere/base"),
    ],
)
def test_failures_have_a_code_and_a_status(
    base_model: Path, pictures: Path, tmp_path: Path, changes: dict[str, Any], status: int, code: str, says: str
) -> None:
    """What is wrong is the last event, with its code; the status tells wrong input from failure."""
    ended = call("train", "--job", str(write_job(tmp_path, base_model, pictures, **changes)))
    assert ended.returncode == status and ended.stdout == ""
    fault = last_event(tmp_path)
    assert (fault["event"], fault["code"]) == ("error", code) and says in fault["message"]


def test_a_job_that_lacks_a_field_is_refused(tmp_path: Path) -> None:
    """A damaged job.json is status 2 with the field's name on standard error."""
    (tmp_path / "job.json").write_text('{"protocol": 1}')
    ended = call("train", "--job", str(tmp_path / "job.json"))
    assert ended.returncode == 2 and "base_model" in ended.stderr


def test_other_families_are_refused_by_name(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """A Flux base is an honest error before anything is loaded."""
    shutil.copytree(base_model, tmp_path / "flux")
    (tmp_path / "flux" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    ended = call("train", "--job", str(write_job(tmp_path, tmp_path / "flux", pictures)))
    fault = last_event(tmp_path)
    assert (ended.returncode, fault["code"]) == (1, "model") and "is Flux" in fault["message"]


def test_the_doctor_says_what_the_machine_has() -> None:
    """``doctor --json`` prints versions, device and free disk as JSON."""
    ended = call("doctor", "--json")
    facts = json.loads(ended.stdout)
    assert ended.returncode == 0 and {"torch", "peft", "diffusers", "device", "disk_free_gb"} <= set(facts)


def test_a_quick_look_imports_nothing(tmp_path: Path) -> None:
    """``doctor --quick`` reads what is installed, and names what is missing or too old."""
    assert afresh("doctor", "--quick").returncode == 0
    bare = subprocess.run(
        [sys.executable, "-S", "-m", "gpurent_engine", "doctor", "--quick"], cwd=tmp_path, check=False,
        env={"PYTHONPATH": str(ENGINE.parent)}, capture_output=True, text=True,
    )  # fmt: skip
    assert bare.returncode == 1 and "torch>=2.6" in bare.stdout


def test_what_the_engine_asks_for_is_what_the_package_asks_for(repository: Path) -> None:
    """One list of oldest releases, in two places."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {*project["optional-dependencies"]["engine"], *project["dependencies"]}
    assert {f"{name}>={'.'.join(map(str, least))}" for name, least in LEAST.items()} <= asked


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_grid_shows_base_and_strengths(base_model: Path, tmp_path: Path, family: str) -> None:
    """``grid`` draws a column for the base and a column for each strength, a row for each prompt."""
    base = base_model if family == "sd15" else tiny_families.build(tmp_path / "xl", family)
    parts = loading.load(str(base))
    network = networks.attach(parts, networks.plan(parts, spec()), torch.Generator())
    alphas = {layer.key: layer.alpha for layer in network.plan.layers}
    save_file(export.tensors(network.parameters, alphas, "float"), tmp_path / "x.safetensors")
    (tmp_path / "prompts.toml").write_text(
        'steps = 2\ncell = 64\n[[prompt]]\ntext = "zq style, red circle"\nseed = 1\n[[prompt]]\ntext = "x"\nseed = 2\n'
    )
    arguments = [
        "--prompts",
        str(tmp_path / "prompts.toml"),
        "--strengths",
        "0.5,1.0",
        "--out",
        str(tmp_path / "g.png"),
    ]
    assert main(["grid", "--base", str(base), "--lora", str(tmp_path / "x.safetensors"), *arguments]) == 0
    with Image.open(tmp_path / "g.png") as picture:
        assert picture.size == (32 + 190 + 3 * 70, 32 + 34 + 2 * 70)
