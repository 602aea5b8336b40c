"""Deadlines against hosts and services that answer nothing: real processes, real links, real bills.

Everywhere here the host has killed its dead-man switch, and its link is open and silent.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
from tests.session.test_crashes import HOURLY, OFFER, end_watchdog, tight, watched
from tests.session.world import Cli, kill, make_job, wait_for
from tests.stub.control import StubEngine
from tests.warm.client import Process

from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
from gpurent.dataset.job import Job
from gpurent.jobs.detached import Guarding, guarding
from gpurent.money import ZERO, Usd, per_hour
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import Held
from gpurent_sandbox.processes import processes_under
from gpurent_sandbox.server import Sandbox

LIFE_S = 30.0
"""From the creation to the hard deadline, as far as the budget says."""
LATE_S = 30.0
"""Everything is over by so long after the hard deadline."""
Record = Callable[[str, object], None]


def disarm(cli: Cli) -> None:
    """Kill every dead-man switch, as the owner of a machine can."""
    switches = [
        process for process in processes_under(cli.sandbox.state_dir / "hosts")
        if any("deadman.py" in word for word in process.cmdline())
    ]  # fmt: skip
    assert switches
    for process in switches:
        process.kill()


def freeze(cli: Cli) -> None:
    """From now on hosts are silent, and nothing there ends them."""
    disarm(cli)
    cli.sandbox.faults.set(Fault.LINK_FROZEN)


def begin(cli: Cli, budget: Usd) -> Process:
    return cli.start("train", "--budget", str(budget.decimal()), "--gpu", OFFER.gpu, "--yes")


def count(cli: Cli, kind: Kind) -> int:
    return sum(event.kind is kind for event in cli.events())


def ends(cli: Cli, budget: Usd, who: str, record: Record) -> None:
    """Wait until every machine has ended, and hold each to its hard deadline and its budget."""
    market = cli.sandbox.market
    hard = {str(event.tag): event.data["hard_deadline"] for event in cli.events() if event.kind is Kind.INTENT}
    wait_for(lambda: market.alive() == [], f"the end by {who}", LIFE_S + LATE_S + 60, every_s=0.2)
    for held in market.history("sandbox"):
        deadline = hard[held.order.label]
        assert isinstance(deadline, float)
        late_s, over = overshoot(held, deadline)
        bill = market.charges(held.id).total
        record("measured", f"{who}: ended {late_s:+.1f} s after the hard deadline, {over} over it; {bill} of {budget}")
        assert late_s < LATE_S and bill <= budget


def overshoot(held: Held, hard: float) -> tuple[float, Usd]:
    """Seconds after the hard deadline, and what they cost."""
    assert held.ended_at is not None
    late_s = held.ended_at - hard
    return late_s, max(ZERO, per_hour(HOURLY, round(late_s * 1000))) if late_s > 0 else ZERO


def consistent(home: Path) -> None:
    """Two have ended one machine at once, and the ledger knows no contradiction."""
    with closing(Ledger.open(home / "ledger.db", SystemClock())) as ledger:
        assert [odd for run in ledger.runs() for odd in run.anomalies] == []


def test_a_client_alone_holds_its_hard_deadline(
    cli: Cli, stub: StubEngine, tmp_path: Path, record_property: Record
) -> None:
    """With nobody else: one whose link is frozen, and one before whom every answer of its provider trickles as well."""
    with Sandbox(boot_s=0.2, seed=7, engine=stub.command) as slow:
        clients = {
            "healthy": replace(cli, folder=tmp_path / "one", state=tmp_path / "one" / "state"),
            "trickling": replace(cli, folder=tmp_path / "two", state=tmp_path / "two" / "state", sandbox=slow),
        }
        budgets: dict[str, Usd] = {}
        started: dict[str, Process] = {}
        for name, client in clients.items():
            client.folder.mkdir()
            job = Job.from_config(make_job(client.folder, steps=100_000))
            budgets[name] = tight(client, job, LIFE_S)
            started[name] = begin(client, budgets[name])
        for client in clients.values():
            client.wait(Kind.PROGRESS)
            freeze(client)
        slow.faults.set(Fault.HTTP_TRICKLE, p=1.0, value=2)
        for name, client in clients.items():
            ends(client, budgets[name], f"the client, its API {name}", record_property)
        assert started["healthy"].wait(timeout=60) == 4
        for _ in range(3):
            started["trickling"].send_signal(signal.SIGINT)
            time.sleep(0.1)  # two signals at once are one
        assert started["trickling"].wait(timeout=20) == 5  # nobody has told it that the machine is gone
        for client in clients.values():
            consistent(client.home)


def test_a_watchdog_holds_the_deadlines_of_clients_that_are_dead_or_hang(
    cli: Cli, tmp_path: Path, record_property: Record
) -> None:
    """One client is killed and what took it over hangs, another hangs itself: neither machine lives on.

    Only the enforcers are left, each with nothing but a thread, a provider and a ledger of its own.
    """
    one, two = (replace(watched(cli), folder=tmp_path / name, state=tmp_path / "state") for name in ("one", "two"))
    for each in (one, two):
        each.folder.mkdir()
        job = Job.from_config(make_job(each.folder, steps=100_000))
    budget = tight(cli, job, LIFE_S, machines=2)
    suspended: list[psutil.Process] = []
    try:
        dies, hangs = begin(one, budget), begin(two, budget)
        wait_for(lambda: count(one, Kind.JOB_STARTED) == 2, "two trainings")
        told = wait_for_watchdog(one.home)
        freeze(cli)
        kill(dies)
        hangs.send_signal(signal.SIGSTOP)
        wait_for(lambda: workers(told.pid) != [], "somebody who takes over")
        suspended += workers(told.pid)
        for worker in suspended:
            worker.suspend()
        ends(one, budget, "the watchdog alone", record_property)
        cli.sandbox.faults.clear()
        kill(hangs)
    finally:
        end_watchdog(one.home)
        for worker in suspended:
            worker.kill()
    assert one.run("reap").returncode == 0
    consistent(one.home)


def wait_for_watchdog(home: Path) -> Guarding:
    """One that knows of both runs."""
    wait_for(lambda: (told := guarding(home)) is not None and len(told.watching) == 2, "a watchdog")
    told = guarding(home)
    assert told is not None
    return told


def workers(pid: int) -> list[psutil.Process]:
    """Processes that tend a run for the watchdog."""
    return [child for child in psutil.Process(pid).children() if "tend" in child.cmdline()]
