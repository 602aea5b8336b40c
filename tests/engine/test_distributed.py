"""Several processes train one LoRA: what one process would have learnt, and one end for all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.engine.run import Heard, events, run, spec
from tests.engine.test_main import ENGINE, write_job
from tests.step.test_fitting import batch

from gpurent_engine import distributed, launch
from gpurent_engine.distributed import Group, share
from gpurent_engine.loop import Order, train
from gpurent_engine.spec import TrainSpec


@settings(deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 6))
def test_shares_sum_up_to_the_mean_over_the_batches(sizes: list[int], count: int) -> None:
    """Each picture's part in the sum over processes is its part in the mean over batches; no picture comes twice."""
    draw = torch.Generator().manual_seed(len(sizes))
    batches = [replace(one, weight=one.weight.double()) for one in (batch(size, draw) for size in sizes)]
    shares = [share(batches, Group(rank, count)) for rank in range(count)]
    summed = sum(torch.stack([piece.weight.mean() for piece in pieces]).mean() for pieces, _ in shares)
    wanted = torch.stack([one.weight.mean() for one in batches]).mean()
    assert float(summed) == pytest.approx(float(wanted))
    counted = [len(one.mean) for pieces, _ in shares for one in pieces if float(one.weight.abs().sum())]
    assert sum(counted) == sum(sizes) and max(counted) <= -(-sum(sizes) // count)


def _rank(rank: int, order: Order, meeting: str, cores: int) -> None:
    """What ``python -m gpurent_engine`` does in a process that was started beside others."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(cores), GLOO_SOCKET_IFNAME="lo")
    os.environ[launch.RENDEZVOUS] = meeting
    import threading

    with Heard(order.out_dir / f"events.{rank}.jsonl", lambda _event: None) as out:
        train(order, out, threading.Event(), distributed.join())


def together(the_spec: TrainSpec, base: Path, pictures: Path, out: Path, *, step: str, count: int = 2) -> list[float]:
    """Train in ``count`` processes; the losses that the first one reports."""
    order = Order(the_spec, str(base), pictures, out, step=step)
    out.mkdir()
    context = multiprocessing.get_context("fork")
    meeting = (out / "meeting").as_uri()
    ranks = [context.Process(target=_rank, args=(rank, order, meeting, count)) for rank in range(count)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(120)
        assert one.exitcode == 0
    assert not any(one["event"] == "checkpoint" for one in events(out / "events.1.jsonl"))
    return [one["loss"] for one in events(out / "events.0.jsonl") if one["event"] == "step"]


@pytest.mark.parametrize(("step", "size", "gather"), [("plain", 3, 1), ("merged", 2, 2)])
def test_two_processes_learn_what_one_learns(
    base_model: Path, pictures: Path, tmp_path: Path, step: str, size: int, gather: int
) -> None:
    """Batches of three cut in two, and micro-batches dealt out: the same losses and the same file to 1e-5."""
    the_spec = spec(train_batch_size=size, gradient_accumulation_steps=gather, min_snr_gamma=5, max_train_epochs=2)
    alone = run(the_spec, base_model, pictures, tmp_path / "alone", step=step)
    losses = together(the_spec, base_model, pictures, tmp_path / "two", step=step)
    assert losses == pytest.approx(alone.losses, abs=1e-5)
    first, second = (load_file(tmp_path / one / "disc.safetensors") for one in ("alone", "two"))
    mine, theirs = (torch.cat([one[key].flatten() for key in first]) for one in (first, second))
    assert (mine - theirs).norm() / theirs.norm() < 1e-5


@pytest.mark.thorough(shown_by="tests/engine/test_distributed.py::test_two_processes_learn_what_one_learns")
def test_one_process_that_is_killed_ends_the_others(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """``--processes 2``: the second is killed; what was learnt is saved, the failure is said, and nothing is left."""
    job = write_job(tmp_path, base_model, pictures, spec=spec(max_train_epochs=4000).to_dict(), processes=2)
    environment = {**os.environ, "PYTHONPATH": str(ENGINE.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gpurent_engine", "train", "--job", str(job)]
    engine = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    path = tmp_path / "events.jsonl"
    while engine.poll() is None and not (path.exists() and '"step"' in path.read_text()):
        time.sleep(0.05)
    children = psutil.Process(engine.pid).children()
    assert len(children) == 2
    (second,) = (one for one in children if one.environ()["RANK"] == "1")
    second.send_signal(signal.SIGKILL)
    _, errors = engine.communicate(timeout=120)
    said = events(path)
    assert engine.returncode == 1 and said[-1]["event"] == "error", errors
    assert any(one["event"] == "checkpoint" for one in said)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in children)
