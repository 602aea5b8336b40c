"""The command line and the library on RunPod's look-alike; a plain run is among the tests of a session."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.adapters.alike import obeyed
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine

from gpurent import Broker, Job, Usd
from gpurent.budget.events import Kind
from gpurent.budget.guard import PRICE_TOLERANCE_PERCENT
from gpurent.jobs.boot import Patience
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.runpod import RUNPOD
from gpurent_sandbox.server import Sandbox

NOWHERE = "at runpod runs, but has no public address for SSH."
QUICK = Patience(boot_s=12, poll_s=0.2, connect_s=6, search_s=3, destroy_s=30, confirm_every_s=0.2, address_s=1)


def test_a_taken_offer_and_a_deaf_pod_are_followed_by_one_that_trains(
    tmp_path: Path, stub: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run, three intents, one refused and two confirmed gone, and all that was billed is in the receipt."""
    with Sandbox(boot_s=0.2, seed=7, engine=stub.command) as sandbox:
        for name, value in RUNPOD.env(sandbox.address).items():
            monkeypatch.setenv(name, value)
        sandbox.faults.set(Fault.OFFER_TAKEN)
        sandbox.faults.set(Fault.NO_SSHD)
        with Broker(home=tmp_path / "state", patience=QUICK) as broker:
            job = Job.from_config(make_job(tmp_path))
            trained = broker.train(job, budget=Usd.parse("1"))
            left_out = [one for one in broker.quote(job).rejected if "failed" in one.reason]
        assert len({one.offer.id for one in left_out}) == 1  # that GPU at that place, for a day
        kinds = [event.kind for event in Cli(tmp_path, sandbox, RUNPOD.env).events()]
        assert [kinds.count(kind) for kind in (Kind.INTENT, Kind.CREATE_REFUSED, Kind.GONE)] == [3, 1, 2]
        assert [line.failed for line in trained.receipt.lines][-1:] == [False]
        history = sandbox.market.history("runpod")
        assert len(history) == 2 and sandbox.truth() == []
        billed = Usd.total([held.charges(sandbox.market.now()).total for held in history])
        most = billed.scaled(100 + PRICE_TOLERANCE_PERCENT, 100) + Usd.parse("0.001")
        assert Usd(0) < trained.receipt.total <= min(most, Usd.parse("1"))
        assert [path.name for path in trained.files] == ["swatch.safetensors"]
        obeyed(sandbox)


def test_a_pod_that_nobody_can_reach_is_followed_by_a_data_centre(
    tmp_path: Path, stub: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usual in the community cloud: it is given back soon, and what costs more but has an address comes first then."""
    with Sandbox(boot_s=0.2, seed=7, engine=stub.command) as sandbox:
        for name, value in RUNPOD.env(sandbox.address).items():
            monkeypatch.setenv(name, value)
        with Broker(home=tmp_path / "state", patience=QUICK) as broker:
            trained = broker.train(Job.from_config(make_job(tmp_path)), budget=Usd.parse("1"))
        first, second = sandbox.market.history("runpod")
        assert not first.machine.open_ports and not first.machine.trusted and second.machine.trusted
        assert [(one.failed, one.cause) for one in trained.receipt.lines] == [
            (True, f"{first.machine.gpu} {NOWHERE}"),
            (False, ""),
        ]
        assert sandbox.truth() == []
        obeyed(sandbox)


def test_the_doctor_is_content_without_a_balance(tmp_path: Path) -> None:
    """A GraphQL that was switched off is told, and keeps nobody from renting; a refused key is a failure."""
    with Sandbox(seed=7) as sandbox:
        cli = Cli(tmp_path, sandbox, RUNPOD.env)
        sandbox.faults.set(Fault.HTTP_410, on="/graphql")
        healthy = cli.run("doctor", "--json")
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
        (shown,) = [one for one in json.loads(healthy.stdout) if one["check"] == "runpod"]
        assert shown["ok"] and "balance unknown" in shown["detail"]
        refused = replace(cli, leads=lambda address: RUNPOD.env(address) | {"RUNPOD_API_KEY": "rpa_wrong"})
        ended = refused.run("doctor", "--json")
        (shown,) = [one for one in json.loads(ended.stdout) if one["check"] == "runpod"]
        assert ended.returncode == 1 and not shown["ok"] and "key" in shown["detail"]
        assert "rpa_wrong" not in ended.stdout + ended.stderr
        obeyed(sandbox)
