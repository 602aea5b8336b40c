"""Ctrl-C in a program of one's own that calls ``Broker.train``: as in the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.session.world import Cli, make_job, wait_for
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent.budget.events import Kind

PROGRAM = """
import signal, sys
from gpurent import Broker, Job, Usd
if "own" in sys.argv:
    signal.signal(signal.SIGINT, lambda *_: print("mine", flush=True))
with Broker() as broker:
    try:
        trained = broker.train(Job.from_config("training_config.toml"), budget=Usd.parse("1"))
        print("stopped", trained.stopped, *[path.name for path in trained.files])
    except Exception as error:
        print(type(error).__name__, error)
print("restored", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@contextmanager
def program(cli: Cli, *words: str) -> Iterator[subprocess.Popen[str]]:
    """It runs, and its training has begun."""
    make_job(cli.folder, steps=4000)
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], cwd=cli.folder, env=cli.env, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        cli.wait(Kind.PROGRESS)
        yield running
    finally:
        running.kill()
        running.communicate(timeout=60)


def test_once_saves_collects_and_returns(cli: Cli) -> None:
    """What had been trained is at home, nothing runs, and the program goes on with its own handling of Ctrl-C."""
    with program(cli) as running:
        running.send_signal(signal.SIGINT)
        said, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    (line, restored) = said.splitlines()
    assert line.startswith("stopped True swatch-step") and restored == "restored True"
    assert list((cli.folder / "output").glob("swatch-step*.safetensors")) and cli.sandbox.truth() == []
    assert "Stopping: saving, collecting, destroying" in errors
    assert cli.events()[-1].data["outcome"] == "interrupted"


@pytest.mark.thorough(shown_by="tests/session/test_programs.py::test_once_saves_collects_and_returns")
def test_twice_destroys_at_once(cli: Cli, stub: StubEngine) -> None:
    """A job that does not hear the first is not waited for after the second."""
    stub.order(Orders(deaf=True))
    with program(cli) as running:
        running.send_signal(signal.SIGINT)
        wait_for(lambda: "saving" in cli_log(running), "the first to be heard")
        running.send_signal(signal.SIGINT)
        said, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert said.startswith("Interrupted ") and cli.sandbox.truth() == []
    assert not list((cli.folder / "output").glob("*.safetensors"))


def cli_log(running: subprocess.Popen[str]) -> str:
    """What it has said to standard error by now: at least one line."""
    assert running.stderr is not None
    return running.stderr.readline() + running.stderr.readline()


@pytest.mark.thorough(shown_by="tests/session/test_programs.py::test_once_saves_collects_and_returns")
def test_a_handler_of_the_programs_own_stays(cli: Cli) -> None:
    """Its author has decided what Ctrl-C means."""
    with program(cli, "own") as running:
        running.send_signal(signal.SIGINT)
        assert running.stdout is not None and running.stdout.readline() == "mine\n"
        assert running.poll() is None
        running.send_signal(signal.SIGKILL)


@pytest.fixture(autouse=True)
def emptied(cli: Cli) -> Iterator[None]:
    """A program that was killed leaves a machine behind."""
    yield
    for held in cli.sandbox.market.alive():
        cli.sandbox.market.vanish(held.id)
