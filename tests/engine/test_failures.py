"""Failures made for real: each leaves the last good weights in a file that loads, and one clear event."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.engine import program, tiny_model
from tests.engine.run import events, spec
from tests.warm.client import Command

from gpurent_engine import networks
from gpurent_engine.buckets import Bin, epoch_batches, place
from gpurent_engine.families import loading
from gpurent_engine.spec import TrainSpec

ENGINE = Path(__file__).parents[2] / "remote"


def write_job(the_spec: TrainSpec, base: Path, pictures: Path, folder: Path) -> list[str]:
    """A job in ``folder``, and what the engine is told to train it."""
    job = {
        "protocol": 1, "spec": the_spec.to_dict(), "base_model": str(base), "data_dir": str(pictures),
        "out_dir": str(folder / "out"), "events": str(folder / "events.jsonl"), "resume": False,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    return ["train", "--job", str(folder / "job.json")]


def started(the_spec: TrainSpec, base: Path, pictures: Path, folder: Path) -> Command:
    """The engine as a program of its own."""
    return program.start(*write_job(the_spec, base, pictures, folder), log=folder / "log.txt")


def ended(the_spec: TrainSpec, base: Path, pictures: Path, folder: Path) -> int:
    """Its exit status."""
    return started(the_spec, base, pictures, folder).wait(timeout=300)


def started_afresh(
    the_spec: TrainSpec, base: Path, pictures: Path, folder: Path, within: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """The engine with all of its memory its own, run by the command ``within``."""
    environment = {**os.environ, "PYTHONPATH": str(ENGINE), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    train = write_job(the_spec, base, pictures, folder)
    command = [*within, sys.executable, "-W", "ignore", "-m", "gpurent_engine", *train]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def when(engine: subprocess.Popen[str], folder: Path, said: str, act: Callable[[], None]) -> list[dict[str, Any]]:
    """Act as soon as ``said`` stands in the events; return them all when the engine has ended."""
    path = folder / "events.jsonl"
    while engine.poll() is None and not (path.exists() and said in path.read_text()):
        time.sleep(0.02)
    assert engine.poll() is None, engine.stderr.read() if engine.stderr else ""
    act()
    engine.communicate()
    return events(path)


def one_error(told: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [one for one in told if one["event"] == "error"]
    assert len(errors) == 1 and told[-1] is errors[0]
    return errors[0]


def usable(folder: Path, told: list[dict[str, Any]]) -> int:
    """The last file that was announced loads and is finite; returns its step."""
    last = [one for one in told if one["event"] == "checkpoint"][-1]
    state = load_file(folder / "out" / last["path"])
    assert state and all(bool(torch.isfinite(one).all()) for one in state.values()) and not last["final"]
    step: int = last["step"]
    return step


@pytest.mark.thorough(shown_by="tests/engine/test_failures.py::test_a_disk_that_is_full_at_a_checkpoint")
def test_memory_that_runs_out_in_the_middle_of_an_epoch(base_model: Path, tmp_path: Path) -> None:
    """A bucket of large pictures comes after many small ones, and the process may not have what it takes."""
    pictures = tiny_model.pictures(tmp_path / "d", 1, repeats=90)
    (tmp_path / "d" / "3_large").mkdir()
    Image.new("RGB", (768, 768), "teal").save(pictures / "3_large" / "x.png")
    keys = {"resolution": 768, "enable_bucket": True, "bucket_no_upscale": True, "bucket_reso_steps": 8,
            "train_batch_size": 3, "max_train_epochs": 1}  # fmt: skip

    def large_at(seed: int) -> int:
        of = spec(seed=seed, **keys)
        found: list[Bin] = [(0, *place(size, of).bucket, 3) for size in ((32, 32), (768, 768))]
        return next(i for i, one in enumerate(epoch_batches(found, [90, 3], seed, 0)) if 1 in one)

    seed = next(seed for seed in range(1000) if large_at(seed) > 20)
    engine = started_afresh(spec(seed=seed, **keys), base_model, pictures, tmp_path)

    def take_away() -> None:
        pages = int(Path(f"/proc/{engine.pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 100 * 2**20
        resource.prlimit(engine.pid, resource.RLIMIT_AS, (limit, limit))

    told = when(engine, tmp_path, '"event": "step"', take_away)
    fault = one_error(told)
    assert (engine.returncode, fault["code"]) == (1, "oom") and "train_batch_size" in fault["remedy"]
    assert usable(tmp_path, told) == large_at(seed)


@pytest.mark.thorough(shown_by="tests/engine/test_failures.py::test_a_disk_that_is_full_at_a_checkpoint")
def test_a_state_makes_room_for_the_lora(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """When a checkpoint finds the disk full, the resumable state goes, the file is written, and the run goes on."""
    (tmp_path / "out").mkdir()
    # Linux's /dev/full refuses every write with ENOSPC, as a full disk does; the name is free again afterwards
    (tmp_path / "out" / "disc-000002.safetensors.part").symlink_to("/dev/full")
    status = ended(spec(max_train_epochs=3, save_every_n_epochs=1), base_model, pictures, tmp_path)
    told = events(tmp_path / "events.jsonl")
    assert status == 0 and told[-1]["event"] == "done", (tmp_path / "log.txt").read_text()
    assert told[-1]["files"] == ["disc-000001.safetensors", "disc-000002.safetensors", "disc.safetensors"]
    assert any("state was removed" in one["message"] for one in told if one["event"] == "warning")


def namespaces() -> bool:
    """Whether a process may mount a file system of its own here."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not namespaces(), reason="this system lets no process mount a file system of its own")
def test_a_disk_that_is_full_at_a_checkpoint(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """There is room for one LoRA and no more: that of the first epoch stays, the second's ends the run by name."""
    parts = loading.load(str(base_model))
    network = networks.attach(parts, networks.plan(parts, spec()), torch.Generator())
    room = int(1.6 * sum(4 * one.numel() for one in network.parameters.values()))
    (tmp_path / "out").mkdir()
    out = tmp_path / "out"
    script = f'mount -t tmpfs -o size={room} none {out} && "$@"; s=$?; cp {out}/*.safetensors {tmp_path}; exit $s'
    mount = ["unshare", "-rm", "sh", "-c", script, "sh"]
    engine = started_afresh(spec(max_train_epochs=4, save_every_n_epochs=1), base_model, pictures, tmp_path, mount)
    _, errors = engine.communicate()
    told = events(tmp_path / "events.jsonl")
    fault = one_error(told)
    assert (engine.returncode, fault["code"]) == (1, "disk_full") and fault["remedy"], errors
    assert any("state could not be written" in one["message"] for one in told if one["event"] == "warning")
    assert [one["path"] for one in told if one["event"] == "checkpoint"] == ["disc-000001.safetensors"]
    assert load_file(tmp_path / "disc-000001.safetensors")


def test_a_picture_that_breaks_while_the_run_is_prepared(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Half a file is named; a run that had been resumed keeps what it had."""
    data = shutil.copytree(pictures, tmp_path / "d")
    assert ended(spec(max_train_epochs=1), base_model, data, tmp_path) == 0
    victim = data / "1_disc" / "003.png"
    victim.write_bytes(victim.read_bytes()[:70])
    status = ended(spec(max_train_epochs=2), base_model, data, tmp_path)
    fault = events(tmp_path / "events.jsonl")[-1]
    assert (status, fault["code"]) == (2, "data") and "003.png" in fault["message"]
    assert load_file(tmp_path / "out" / "disc.safetensors")


def test_numbers_that_run_away(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """A rate far too high ends in one error; nothing that is not a number is written."""
    the_spec = spec(
        unet_lr=1e3,
        optimizer_type="SGDNesterov",
        network_alpha=1e6,
        max_grad_norm=0.0,
        max_train_epochs=30,
        save_precision="float",
    )
    status = ended(the_spec, base_model, pictures, tmp_path)
    told = events(tmp_path / "events.jsonl")
    assert (status, one_error(told)["code"]) == (1, "nan")
    for file in (tmp_path / "out").glob("*.safetensors"):
        if file.name != "state.safetensors":
            assert all(bool(torch.isfinite(one).all()) for one in load_file(file).values())
