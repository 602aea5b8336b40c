"""The stub engine goes wrong as ordered; ``tests/engine/test_stub.py`` holds it to what the real one says."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from tests.stub import trial
from tests.stub.control import StubEngine
from tests.stub.engine import Orders
from tests.stub.trial import QUICK, events, job, start, train

from gpurent.jobs import events as protocol


@pytest.fixture
def stub(tmp_path: Path) -> StubEngine:
    return StubEngine(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return trial.pictures(tmp_path / "data")


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_its_hello_has_the_fields_of_the_real_engines(stub: StubEngine, data: Path, tmp_path: Path) -> None:
    """As the client reads them, and as ``docs/reference/events.md`` lists them."""
    _, said = train(stub, QUICK, job(tmp_path, data))
    assert set(said[0]) == {
        "v", "seq", "t", "event", "protocol", "engine", "python", "torch", "device", "device_name", "pid",
    }  # fmt: skip
    assert isinstance(protocol.parse(json.dumps(said[0])), protocol.Hello)


def test_its_files_are_loras_of_the_right_size(stub: StubEngine, data: Path, tmp_path: Path) -> None:
    """safetensors under kohya's key names, with rank, alpha and steps in the metadata, as large as ordered."""
    train(stub, Orders(step_s=0.0, size=1_000_000), job(tmp_path, data, network_dim=4))
    path = tmp_path / "out" / "disc.safetensors"
    assert 0.9e6 < path.stat().st_size < 1.1e6
    with safe_open(path, "np") as file:
        names, words = set(file.keys()), file.metadata()
        weight = file.get_tensor("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")
    assert {name.rpartition(".")[2] for name in names} == {"weight", "alpha"}
    assert weight.shape[0] == 4 and abs(weight.astype(float)).min() > 0
    assert (words["ss_network_dim"], words["ss_output_name"]) == ("4", "disc") and int(words["ss_steps"]) > 0


def test_a_state_of_another_run_is_refused(stub: StubEngine, data: Path, tmp_path: Path) -> None:
    """As by the real engine: code ``spec``, status 1."""
    train(stub, QUICK, job(tmp_path, data))
    status, said = train(stub, QUICK, job(tmp_path, data, resume=True, seed=6))
    assert (status, said[-1]["event"], said[-1]["code"]) == (1, "error", "spec")


@pytest.mark.parametrize("code", ["nan", "oom", "disk_full", "internal", "data"])
def test_it_gives_up_at_the_step_that_was_ordered(stub: StubEngine, data: Path, tmp_path: Path, code: str) -> None:
    """With that code, and the status that goes with it."""
    status, said = train(stub, Orders(step_s=0.0, fail_at=3, code=code, message="why"), job(tmp_path, data))
    assert status == (2 if code == "data" else 1)
    assert (said[-1]["event"], said[-1]["code"], said[-1]["message"]) == ("error", code, "why")
    assert not (tmp_path / "out" / "disc.safetensors").exists()


def test_it_dies_without_a_word(stub: StubEngine, data: Path, tmp_path: Path) -> None:
    status, said = train(stub, Orders(step_s=0.0, die_at=2), job(tmp_path, data))
    assert status == -signal.SIGKILL and said[-1]["event"] in ("step", "phase")


def test_it_hangs_until_the_orders_change(stub: StubEngine, data: Path, tmp_path: Path) -> None:
    """Deaf to SIGTERM meanwhile."""
    stub.order(Orders(step_s=0.0, hang_at=1))
    out = tmp_path / "out" / "events.jsonl"
    with start(stub, job(tmp_path, data)) as process:
        wait_for(lambda: out.exists() and any(one["event"] == "plan" for one in events(out)))
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        stub.order(QUICK)
        process.communicate(timeout=60)
    assert process.returncode == 4


def test_it_can_be_deaf_to_every_request(stub: StubEngine, data: Path, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    status, said = train(stub, Orders(step_s=0.0, deaf=True), job(tmp_path, data))
    assert (status, said[-1]["stopped"]) == (0, False)


def test_it_can_say_nothing_at_all(stub: StubEngine, data: Path, tmp_path: Path) -> None:
    assert train(stub, Orders(step_s=0.0, mute=True), job(tmp_path, data)) == (0, [])


def test_it_can_flood_its_events_and_its_log(stub: StubEngine, data: Path, tmp_path: Path) -> None:
    stub.order(Orders(step_s=0.0, flood=1000, log_bytes=10_000, say=('{"event":[]}', "no json")))
    the_job = job(tmp_path, data, max_train_epochs=None, max_train_steps=2)
    with start(stub, the_job) as process:
        printed, _ = process.communicate(timeout=60)
    lines = (tmp_path / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ['{"event":[]}', "no json"]
    assert sum('"step"' in line for line in lines) > 2000 and len(printed) == 20_000


@pytest.mark.parametrize(
    ("orders", "announced", "there", "right"),
    [
        (Orders(step_s=0.0), True, True, True),
        (Orders(step_s=0.0, wrong_digest=True), True, True, False),
        (Orders(step_s=0.0, lose_files=True), True, False, False),
        (Orders(step_s=0.0, skip_final=True), False, False, False),
    ],
)
def test_it_can_lie_about_its_files(
    stub: StubEngine, data: Path, tmp_path: Path, orders: Orders, announced: bool, there: bool, right: bool
) -> None:
    """A digest that no file has, a file that is not there, an end without one."""
    status, said = train(stub, orders, job(tmp_path, data))
    assert status == 0 and said[-1]["event"] == "done"
    final = [one for one in said if one["event"] == "checkpoint" and one["final"]]
    path = tmp_path / "out" / "disc.safetensors"
    assert (bool(final), path.exists()) == (announced, there)
    if there:
        assert (hashlib.sha256(path.read_bytes()).hexdigest() == final[0]["sha256"]) is right


def test_it_needs_nothing_but_the_standard_library(stub: StubEngine) -> None:
    """With every installed package out of reach it can be imported."""
    subprocess.run([sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({stub.command[3]!r})"], check=True)
