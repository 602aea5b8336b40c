"""Two computers with one ledger: real commands, a real market, one budget."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.budget import postgres
from tests.budget.world import Place
from tests.session.world import Cli, kill, make_job, wait_for
from tests.stub.control import StubEngine

from gpurent import Broker, Job, Usd
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
from gpurent.jobs.progress import Notice, Progress, Trained
from gpurent_sandbox.server import Sandbox

pytestmark = pytest.mark.parametrize("place", ["postgresql" if postgres.usable() else "sqlite"], indirect=True)
"""On PostgreSQL, where there is one: that is what teams have."""


@pytest.fixture
def market(stub: StubEngine) -> Iterator[Sandbox]:
    with Sandbox(boot_s=0.2, seed=7, engine=stub.command) as running:
        yield running


def member(place: Place, market: Sandbox, name: str) -> Cli:
    """A computer of the team: a state folder of its own, the ledger of all."""
    shared = {"GPURENT_LEDGER_URL": place.url, "GPURENT_LIMITS_PER_DAY": "1.50"}
    computer = Cli(place.folder / name, market, lambda address: {**address.env(), **shared})
    make_job(computer.folder, steps=4000)
    return computer


def training(ledger: Ledger) -> bool:
    return any(event.kind is Kind.PROGRESS for event in ledger.events())


def test_a_team_shares_its_limits_and_stops_each_others_runs(place: Place, market: Sandbox) -> None:
    """While Anna trains, Ben has no money left, his reap lets her be, and his stop brings her result home to her."""
    anna, ben = (member(place, market, name) for name in ("anna", "ben"))
    client = anna.start("train", "--budget", "1", "--yes")
    ledger = place.open(SystemClock())
    wait_for(lambda: training(ledger), "training")
    refused = ben.run("train", "--budget", "1", "--yes")
    assert refused.returncode == 2 and "per day" in refused.stderr
    reaped = ben.run("reap")
    assert reaped.returncode == 0 and len(market.truth()) == 1, reaped.stdout + reaped.stderr
    stopped = ben.run("stop")
    printed, _ = client.communicate(timeout=120)
    assert (client.returncode, market.truth()) == (130, []), printed + stopped.stdout + stopped.stderr
    assert list((anna.folder / "output").glob("*.safetensors"))


def test_a_killed_client_is_mended_where_it_ran_and_left_alone_elsewhere(place: Place, market: Sandbox) -> None:
    """Only Anna's computer knows at once that her client died, and only it has the keys to her machine."""
    anna, ben = (member(place, market, name) for name in ("anna", "ben"))
    client = anna.start("train", "--budget", "1", "--yes")
    ledger = place.open(SystemClock())
    wait_for(lambda: training(ledger), "training")
    kill(client)
    assert ben.run("reap").returncode == 0 and len(market.truth()) == 1
    assert json.loads(ben.run("status", "--json").stdout)["runs"][0]["client_alive"]
    refused = ben.run("attach")
    assert refused.returncode == 2 and "was started on the computer" in refused.stderr.replace("\n", " ")
    assert anna.run("status").returncode == 5
    reaped = anna.run("reap")
    assert (reaped.returncode, market.truth()) == (0, []), reaped.stdout + reaped.stderr
    assert list((anna.folder / "output").glob("*.safetensors")), reaped.stdout + reaped.stderr
    assert ben.run("status").returncode == 0


def test_a_ledger_out_of_reach_costs_no_training(
    place: Place, market: Sandbox, server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database dies and comes back in the middle of a run: the deadlines hold meanwhile, and no line is missed."""
    for name, value in {**market.env(), "GPURENT_LEDGER_URL": place.url}.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    steps: list[int] = []

    def tell(event: Progress) -> None:
        if isinstance(event, Trained):
            steps.append(event.step)
            if len(steps) == 1:
                server.pause()
        if isinstance(event, Notice):
            said.append(event.message)
            if "The deadlines hold all the same" in event.message:
                server.resume()

    with server.resumed(), Broker(home=place.folder / "state") as broker:
        trained = broker.train(Job.from_config(make_job(place.folder, steps=60)), budget=Usd.parse("1"), tell=tell)
        run = broker.ledger.run(trained.run_id)
    assert any("Progress is not recorded" in one for one in said) and not any("gehe@im" in one for one in said)
    assert run.outcome == "done" and len(run.artefacts) == 1 and not run.anomalies
    assert market.truth() == []
