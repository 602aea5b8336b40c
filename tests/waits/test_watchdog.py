"""Workers of the watchdog: one that hangs is killed, and another goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.session.test_crashes import end_watchdog
from tests.session.world import Cli, kill, make_job, wait_for

from gpurent.broker import Broker
from gpurent.budget.events import Kind
from gpurent.clock import ManualClock, SystemClock
from gpurent.jobs.detached import HANG_S, Rouser, guarding
from gpurent.jobs.tending import Process, Worker
from gpurent.settings import Settings
from gpurent.watchdog import Watchdog


@pytest.fixture
def started(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Process]]:
    """Workers that were started; none is left behind."""
    for name, value in cli.env.items():
        monkeypatch.setenv(name, value)
    started: list[Process] = []
    yield started
    for one in started:
        one.kill()


def test_a_worker_that_hangs_is_replaced(cli: Cli, started: list[Process]) -> None:
    """It is stopped in the middle, holding the lock of its run: killed, it lets go, and the next one takes over."""
    make_job(cli.folder, steps=200)
    kill(cli.begin(Kind.PROGRESS))

    def open_broker(_folder: Path) -> Broker:
        return Broker(settings=Settings(), home=cli.home)

    def start(run_id: str, folder: Path) -> Worker:
        started.append(Process(cli.home, run_id, folder))
        return started[-1]

    dog = Watchdog(cli.home, open_broker, SystemClock(), start, hang_s=1.0)
    with open_broker(cli.folder) as broker:
        turn = partial(dog.turn, broker, broker.clock.now())
        turn()
        assert len(started) == 1
        wait_for(lambda: broker.abandoned() == (), "the worker at work")
        os.kill(started[0].pid, signal.SIGSTOP)
        wait_for(lambda: started[0].silent_s() > 1.0, "its silence")
        turn()
        assert len(started) == 2 and not started[0].at_work()
        cli.wait(Kind.RUN_CLOSED)
        wait_for(lambda: not started[1].at_work(), "the end of the second")
        assert turn() == {}
    assert (cli.folder / "output" / "swatch.safetensors").is_file()
    assert cli.sandbox.truth() == []


def test_a_worker_ends_with_its_watchdog(cli: Cli, started: list[Process]) -> None:
    """However that died: the other end of a pipe is gone."""
    make_job(cli.folder, steps=100_000)
    kill(cli.begin(Kind.PROGRESS))
    run_id = cli.events()[0].run_id
    started.append(Process(cli.home, run_id, cli.folder))
    wait_for(lambda: (cli.home / "runs" / run_id / "tended").exists(), "a sign of life")
    assert started[0].at_work()
    started[0].let_go()
    wait_for(lambda: not started[0].at_work(), "its end")


def test_a_watchdog_that_hangs_is_replaced_by_a_client(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, holds its lock, and takes no turn: a client that lives ends it and starts another."""
    for name, value in cli.env.items():
        monkeypatch.setenv(name, value)
    clock = ManualClock()
    rouse = Rouser(cli.home, clock)
    try:
        rouse()
        wait_for(lambda: (told := guarding(cli.home)) is not None and told.pid != 0, "a watchdog")
        first = guarding(cli.home)
        assert first is not None
        os.kill(first.pid, signal.SIGSTOP)
        rouse()
        clock.advance(HANG_S - 1)
        rouse()
        assert (told := guarding(cli.home)) is not None and told.pid == first.pid
        clock.advance(2)
        rouse()
        wait_for(lambda: (now := guarding(cli.home)) is not None and now.pid not in (0, first.pid), "another")
    finally:
        end_watchdog(cli.home)
        for process in rouse.started:
            process.wait()
