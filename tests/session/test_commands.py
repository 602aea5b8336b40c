"""One rental from quote to receipt, through the real command line, over real HTTP and SSH."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.session.world import Cli, kill, make_job, reachable
from tests.stub.control import StubEngine
from tests.thorough import often

from gpurent.budget.events import Kind
from gpurent.clock import SystemClock
from gpurent.testing.conformance import ANY, launch
from gpurent_providers.vastai.provider import VastProvider
from gpurent_sandbox.address import SandboxAddress
from gpurent_sandbox.held import Order
from gpurent_sandbox.runpod import RUNPOD
from gpurent_sandbox.server import Sandbox
from gpurent_sandbox.vast import VAST

SERVICES = {"sandbox": SandboxAddress.env, "runpod": RUNPOD.env, "vastai": VAST.env}
"""Adapters before their look-alikes: what the four tests of one complete run show holds for each."""


@dataclass(frozen=True)
class Finished:
    """One complete run and what the command printed."""

    cli: Cli
    ended: subprocess.CompletedProcess[str]
    service: str


@pytest.fixture(scope="module", params=often(SERVICES, ["sandbox"]))
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Finished]:
    """The real engine trains for the first of them."""
    stub = StubEngine(tmp_path_factory.mktemp("stub"))
    engine = () if request.param == "sandbox" else stub.command
    with Sandbox(boot_s=0.2, seed=7, engine=engine, machines=reachable(7)) as sandbox:
        cli = Cli(tmp_path_factory.mktemp("finished"), sandbox, SERVICES[request.param], afresh=True)
        make_job(cli.folder)
        yield Finished(cli, cli.run("train", "--budget", "1", "--yes", "--json"), request.param)
        assert [one for one in sandbox.journal.entries() if one.violations] == []


def test_train_brings_verified_files_home_and_leaves_nothing_running(finished: Finished) -> None:
    """With nothing but a budget, train finds configuration and dataset in the working folder and does all the rest."""
    cli, ended = finished.cli, finished.ended
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    (artefact,) = result["receipt"]["artefacts"]
    data = (cli.folder / "output" / "swatch.safetensors").read_bytes()
    assert artefact["sha256"] == hashlib.sha256(data).hexdigest()
    assert result["receipt"]["settled"] and 0 < result["receipt"]["total_micros"] < 1_000_000
    assert [one.data["provider"] for one in cli.events() if one.kind is Kind.INTENT] == [finished.service]
    assert cli.sandbox.truth() == []
    assert not any((cli.folder / "output").glob("*.part"))


def test_the_ledger_knows_every_step_before_it_is_taken(finished: Finished) -> None:
    """Intent precedes create, and gone follows a destroy that was accepted and absence in several listings."""
    kinds = [event.kind for event in finished.cli.events()]
    order = [
        Kind.RUN_OPENED, Kind.INTENT, Kind.CREATED, Kind.REACHABLE, Kind.JOB_STARTED, Kind.CHECKPOINT_HOME,
        Kind.JOB_DONE, Kind.DESTROY_SENT, Kind.DESTROY_ACCEPTED, Kind.SEEN_ABSENT, Kind.GONE, Kind.RUN_CLOSED,
    ]  # fmt: skip
    assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)
    assert kinds.count(Kind.SEEN_ABSENT) >= 3


def test_no_account_key_reaches_the_host_or_the_logs(finished: Finished) -> None:
    """Neither the start-up script nor anything in the run folder holds the account key."""
    cli, ended = finished.cli, finished.ended
    key = cli.sandbox.account_key
    assert key not in ended.stdout + ended.stderr
    for path in (cli.folder / "state").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    journal = (cli.sandbox.state_dir / "journal.jsonl").read_text(encoding="utf-8")
    assert "gpurent-" in journal and key not in journal


def test_a_run_that_did_not_fail_has_no_postmortem(finished: Finished) -> None:
    """``why`` says so, and ``costs`` counts the run."""
    assert "did not fail: done" in finished.cli.run("why").stdout
    shown = json.loads(finished.cli.run("costs", "--by", "provider", "--json").stdout)
    assert [(line["key"], line["rentals"], line["failed"]) for line in shown["lines"]] == [(finished.service, 1, 0)]
    assert shown["unknown"] == []


def test_logs_and_receipt_are_there_after_the_run(finished: Finished) -> None:
    """After the run its events are still there, from hello to done, and so is its bill."""
    kinds = [json.loads(line)["event"] for line in finished.cli.run("logs").stdout.splitlines()]
    assert kinds[0] == "hello" and kinds[-1] == "done" and "step" in kinds
    assert json.loads(finished.cli.run("receipt", "--json").stdout)["outcome"] == "done"


@pytest.mark.parametrize("moment", often([Kind.INTENT, Kind.PROGRESS], [Kind.PROGRESS]))
def test_kill_9_is_found_by_status_and_mended_by_reap(cli: Cli, moment: Kind) -> None:
    """Wherever the client dies, status tells the truth, reap destroys, and nothing runs."""
    make_job(cli.folder, steps=400 if moment is Kind.PROGRESS else 3)
    client = cli.begin(moment)
    kill(client)
    status = cli.run("status", "--json")
    shown = json.loads(status.stdout)
    if cli.sandbox.truth():
        assert status.returncode == 5
        assert shown["in_doubt"] and not shown["runs"][0]["client_alive"]
        elsewhere = cli.run("providers")
        assert elsewhere.returncode == 5 and "gpurent reap" in elsewhere.stderr
    reaped = cli.run("reap")
    assert cli.sandbox.truth() == [], reaped.stdout + reaped.stderr
    if moment is not Kind.INTENT:  # an unanswered create is watched for ten minutes
        assert reaped.returncode == 0, reaped.stdout + reaped.stderr
        assert cli.run("status").returncode == 0


def test_attach_goes_on_where_a_killed_client_left_off(cli: Cli) -> None:
    """Training outlives its client; attach collects the result, destroys, and the run ends as done."""
    make_job(cli.folder, steps=120)
    client = cli.begin()
    kill(client)
    attached = cli.run("attach")
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert (cli.folder / "output" / "swatch.safetensors").is_file()
    assert cli.sandbox.truth() == []


def test_stop_from_another_terminal_ends_a_run_in_order(cli: Cli) -> None:
    """gpurent stop tells the live client, which saves, collects and destroys."""
    make_job(cli.folder, steps=4000)
    client = cli.begin()
    assert cli.run("stop").returncode == 0
    client.communicate(timeout=120)
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []


def test_what_only_a_tag_connects_with_us_is_ended_with_all_accounts(cli: Cli) -> None:
    """A machine of a lost ledger is named and left; asked for, it is taken into the ledger, ended, and on the bill."""
    market = cli.sandbox.market
    market.create(Order(market.offers()[0].id, "gpurent-20260101-000000-lost-1", "", 10, "ssh-ed25519 AAAA"))
    left = cli.run("reap")
    assert left.returncode == 0 and "--all-accounts" in left.stdout and len(cli.sandbox.truth()) == 1
    unasked = cli.run("reap", "--all-accounts")
    assert unasked.returncode == 2 and "--yes" in unasked.stderr and len(cli.sandbox.truth()) == 1
    ended = cli.run("reap", "--all-accounts", "--yes")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert cli.sandbox.truth() == []
    assert [event.kind for event in cli.events()][:3] == [Kind.RUN_OPENED, Kind.INTENT, Kind.ADOPTED]


class EarlierClock(SystemClock):
    """The machine's clock, an hour behind until it is told otherwise."""

    behind = 3600.0

    def now(self) -> float:
        return super().now() - self.behind


def test_a_charge_with_our_tag_that_no_ledger_explains_is_no_success(tmp_path: Path) -> None:
    """It may be an orphan that still runs: ``costs`` warns in words, and exits 5."""
    clock = EarlierClock()
    with Sandbox(clock=clock, boot_s=0.2, seed=7) as sandbox:
        cli = Cli(tmp_path, sandbox, VAST.env)
        with closing(VastProvider(sandbox.url, sandbox.account_key, SystemClock())) as elsewhere:
            elsewhere.create(elsewhere.offers(ANY)[0], launch("gpurent-20260101-000000-lost-1"))
        clock.behind = 0.0
        told = cli.run("costs")
        assert told.returncode == 5 and "with our tag: possibly an orphan" in told.stderr, told.stdout + told.stderr
        shown = cli.run("costs", "--json")
        assert shown.returncode == 5 and json.loads(shown.stdout)["unknown"][0]["ours"]
