"""`gpurent session`: open, run, status and close, each in a shell of its own; what they refuse, and what they ask."""

from __future__ import annotations

import json
import os
import signal

import pytest
from tests.session.world import Cli, make_job, wait_for

from gpurent.broker import Broker
from gpurent.budget.events import Kind
from gpurent.budget.state import Run


def opened(cli: Cli, *more: str) -> str:
    """A session without a job; its id."""
    ran = cli.run("session", "open", "--budget", "1", "--yes", "--json", *more)
    assert ran.returncode == 0, ran.stderr
    return str(json.loads(ran.stdout)["run_id"])


def test_a_session_outlives_its_shells_until_one_of_them_closes_it(cli: Cli) -> None:
    """Two jobs from two shells on one machine; the last shell ends it and shows the bill."""
    make_job(cli.folder)
    run_id = opened(cli)
    assert cli.sandbox.truth() == []
    first = cli.run("session", "run", "--yes", "--name", "ant")
    assert first.returncode == 0, first.stderr
    assert "Job 1 of 1: ant" in first.stdout and "ant.safetensors" in first.stdout and "left of the" in first.stdout
    told = json.loads(cli.run("session", "status", "--json").stdout)
    assert told["run_id"] == run_id and told["state"] == "idle" and told["client_alive"]
    assert told["jobs"] == [{"name": "ant", "state": "done"}] and told["idle_until"] is not None
    second = cli.run("session", "run", "--yes", "--name", "bee", "--json")
    events = [json.loads(line) for line in second.stdout.splitlines()]
    assert events[-1]["event"] == "trained" and events[-1]["files"][-1].endswith("bee.safetensors")
    refused = cli.run("session", "run", "--yes", "--name", "bee")
    assert refused.returncode == 2 and "would replace the files of bee" in refused.stderr
    shown = cli.run("session", "status")
    assert "waits for a job for" in shown.stdout and "bee" in shown.stdout
    closed = cli.run("session", "close")
    assert closed.returncode == 0 and "of which waiting for jobs" in closed.stdout
    assert f"Session {run_id} is closed; 2 jobs ran in it." in closed.stdout
    assert cli.sandbox.truth() == []
    run = cli_run(cli, run_id)
    assert len(run.rentals) == 1 and run.outcome == "done"


def cli_run(cli: Cli, run_id: str) -> Run:
    with Broker(home=cli.home) as broker:
        return broker.ledger.run(run_id)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "--yes"), 2, "No session is open"),
        (("status",), 2, "No session is open"),
        (("close",), 2, "No session is open"),
        (("close", "20260101-000000-abcd"), 2, "There is no run"),
        (("open", "--yes"), 2, "No budget was given"),
        (("open", "--budget", "1"), 2, "Nobody is there to be asked"),
        (("open", "--budget", "1", "--json"), 2, "With --json nobody is asked"),
        (("open", "--budget", "1", "--base-model", "./nothing", "--yes"), 2, "there is no base model at"),
        (("open", "--budget", "1", "--idle", "900", "--yes"), 2, "less than or equal to 240"),
    ],
)
def test_bad_orders_are_refused_in_words(cli: Cli, arguments: tuple[str, ...], code: int, said: str) -> None:
    """Nothing is opened by any of them."""
    make_job(cli.folder)
    ran = cli.run("session", *arguments)
    assert ran.returncode == code and said in ran.stderr.replace("\n", " ")
    assert not any(event.kind is Kind.RUN_OPENED for event in cli.events())


def test_a_dry_run_quotes_and_opens_nothing(cli: Cli) -> None:
    """What waiting costs is told beside the quote."""
    make_job(cli.folder)
    ran = cli.run("session", "open", "--budget", "1", "--dry-run", "--json")
    told = json.loads(ran.stdout)
    assert ran.returncode == 0 and told["idle_s"] == 600 and told["idle_micros"] > 0 and told["quote"]["offers"]
    assert "the machine waits for up to 10 min" in cli.run("session", "open", "--budget", "1", "--dry-run").stdout
    assert not cli.events()


def test_what_a_job_may_cost_is_told_by_offers_that_the_session_may_rent(cli: Cli) -> None:
    """`open --gpu` holds for every later shell, which is asked about no other machine."""
    make_job(cli.folder)
    every = json.loads(cli.run("session", "open", "--budget", "1", "--dry-run", "--json").stdout)["quote"]["offers"]
    wanted = every[-1]["gpu"]
    assert {offer["gpu"] for offer in every} != {wanted}
    run_id = opened(cli, "--gpu", wanted)
    told = json.loads(cli.run("session", "run", "--dry-run", "--json").stdout)
    assert {offer["gpu"] for offer in told["offers"]} == {wanted}
    assert cli.run("session", "close", run_id).returncode == 0


def test_the_process_of_a_session_that_is_asked_to_end_ends_its_machine(cli: Cli) -> None:
    """SIGTERM, as from a computer that shuts down."""
    make_job(cli.folder)
    run_id = opened(cli)
    assert cli.run("session", "run", "--yes").returncode == 0
    os.kill(cli_run(cli, run_id).client.pid, signal.SIGTERM)
    wait_for(lambda: cli_run(cli, run_id).outcome is not None, "the end of the session")
    assert cli_run(cli, run_id).outcome == "done" and cli.sandbox.truth() == []


def test_leaving_a_shell_leaves_the_job_to_the_session(cli: Cli) -> None:
    """Ctrl-C in `session run` ends nothing: the job comes home, and `session close` ends the machine."""
    make_job(cli.folder, steps=60)
    run_id = opened(cli)
    shell = cli.start("session", "run", "--yes")
    cli.wait(Kind.PROGRESS)
    shell.send_signal(signal.SIGINT)
    assert shell.wait(60) == 5
    wait_for((cli.folder / "output" / "swatch.safetensors").is_file, "the file")
    wait_for(lambda: json.loads(cli.run("session", "status", "--json").stdout)["state"] == "idle", "the wait")
    assert cli.run("session", "close").returncode == 0
    assert cli_run(cli, run_id).outcome == "done" and cli.sandbox.truth() == []


def test_a_second_shell_is_told_if_the_process_of_its_session_dies(cli: Cli) -> None:
    """kill -9 of the process that holds it: the machine is left to its guards, and `close` ends it from here."""
    make_job(cli.folder)
    run_id = opened(cli)
    assert cli.run("session", "run", "--yes").returncode == 0
    os.kill(cli_run(cli, run_id).client.pid, signal.SIGKILL)
    wait_for(lambda: not json.loads(cli.run("session", "status", "--json").stdout)["client_alive"], "its death")
    assert cli.run("session", "close").returncode == 0
    assert cli.sandbox.truth() == []
