"""One run of the stub engine by itself, without a broker."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from PIL import Image
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent_engine import prompts
from gpurent_engine.reading import parse_spec

QUICK = Orders(step_s=0.0)


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pictures(root: Path) -> Path:
    """Five pictures, two of which an epoch sees twice."""
    for folder, names in (("1_disc", "abc"), ("2_ring", "de")):
        (root / folder).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (32, 32), "red").save(root / folder / f"{name}.png")
    return root


def spec(**keys: object) -> dict[str, Any]:
    """A configuration as the client writes it into a job."""
    usual = {
        "pretrained_model_name_or_path": "base", "train_batch_size": 2, "max_train_epochs": 2, "network_dim": 4,
        "output_name": "disc", "seed": 5,
    }  # fmt: skip
    found = parse_spec({key: value for key, value in {**usual, **keys}.items() if value is not None})
    return prompts.embed(found, Path()).to_dict()


def job(folder: Path, data: Path, *, resume: bool = False, **keys: object) -> Path:
    path = folder / "job.json"
    path.write_text(
        json.dumps({
            "protocol": 1, "spec": spec(**keys), "base_model": "base", "data_dir": str(data),
            "out_dir": str(folder / "out"), "events": str(folder / "out" / "events.jsonl"),
            "stop_file": str(folder / "stop"), "plan_file": str(folder / "plan.json"), "resume": resume,
        }),
        encoding="utf-8",
    )  # fmt: skip
    return path


def start(stub: StubEngine, the_job: Path) -> subprocess.Popen[str]:
    argv = [*stub.command, "-m", "gpurent_engine", "train", "--job", str(the_job)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train(stub: StubEngine, orders: Orders, the_job: Path) -> tuple[int, list[dict[str, Any]]]:
    stub.order(orders)
    with start(stub, the_job) as process:
        process.communicate(timeout=60)
    path = the_job.parent / "out" / "events.jsonl"
    return process.returncode, events(path) if path.exists() else []
