"""Commands on runs: before there was one, with a wrong name, and after one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.world import Terminal
from tests.session.world import Cli, kill, make_job, wait_for

from gpurent.budget.events import Kind
from gpurent_sandbox.server import Sandbox

ON_RUNS = ("logs", "attach", "stop", "receipt")


@pytest.fixture(scope="module")
def done(market: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[Terminal, list[dict[str, Any]]]:
    """A folder in which one run went well, and the lines that ``train --json`` printed."""
    terminal = Terminal(tmp_path_factory.mktemp("done"), market.env())
    make_job(terminal.folder)
    ended = terminal.run("train", "--budget", "1", "--yes", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    return terminal, [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("command", ON_RUNS)
def test_before_the_first_run_a_command_says_so(alone: Terminal, command: str) -> None:
    """No traceback, no empty table: exit 2 and the command that starts a run."""
    ended = alone.run(command)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "No run was ever started here." in ended.stderr
    assert "gpurent train --budget 10" in ended.stderr


def test_before_the_first_run_nothing_runs(alone: Terminal) -> None:
    """status and reap find nothing, and say that this is so."""
    assert alone.run("status").stdout == "Nothing runs.\n"
    assert json.loads(alone.run("status", "--json").stdout) == {"runs": [], "in_doubt": []}
    assert alone.run("reap").stdout == "Nothing is left over; nothing runs that nobody looks after.\n"
    assert json.loads(alone.run("reap", "--json").stdout) == []
    assert json.loads(alone.run("reap", "--dry-run", "--json").stdout) == []


def test_every_line_of_train_is_a_json_object(done: tuple[Terminal, list[dict[str, Any]]]) -> None:
    """Stages in order, money that never falls, files with digests, and the receipt as the last line."""
    _, lines = done
    *events, last = lines
    assert last["event"] == "receipt" and last["stopped"] is False
    assert {one["event"] for one in events} <= {
        "stage", "moved", "rented", "step", "spending", "collected", "notice", "gone",
    }  # fmt: skip
    stages = [one["stage"] for one in events if one["event"] == "stage"]
    assert list(dict.fromkeys(stages)) == [
        stage
        for stage in ("rent", "boot", "prove", "upload", "prepare", "train", "collect", "draw", "destroy")
        if stage in stages
    ]
    spent = [one["spent_micros"] for one in events if one["event"] == "spending"]
    assert spent and spent == sorted(spent)
    collected = [one for one in events if one["event"] == "collected"]
    assert [one["path"] for one in collected] == [*last["files"], last["grid"]]
    assert [one["final"] for one in collected] == [True, False]  # the LoRA, and its grid
    assert [one["sha256"] for one in collected] == [one["sha256"] for one in last["receipt"]["artefacts"]]
    rented = next(one for one in events if one["event"] == "rented")
    assert rented["run_id"] == last["run_id"] and rented["guards"]


def test_status_shows_finished_runs_on_demand(done: tuple[Terminal, list[dict[str, Any]]]) -> None:
    """What is over is not a news; --all has it, with what it cost."""
    terminal, lines = done
    assert terminal.run("status").stdout == "Nothing runs.\n"
    (run,) = json.loads(terminal.run("status", "--all", "--json").stdout)["runs"]
    assert (run["run_id"], run["outcome"]) == (lines[-1]["run_id"], "done")
    assert 0 < run["spent_micros"] < run["budget_micros"] == 1_000_000
    shown = terminal.run("status", "--all").stdout
    assert f"{run['run_id']}  swatch  done, step 4/4" in shown and "of $1.00" in shown


def test_the_receipt_is_play_money_and_says_where_the_file_is(
    done: tuple[Terminal, list[dict[str, Any]]],
) -> None:
    """With a run's name or without one, it is the same bill."""
    terminal, lines = done
    latest, named = terminal.run("receipt"), terminal.run("receipt", lines[-1]["run_id"])
    assert latest.stdout == named.stdout
    assert f"Receipt of {lines[-1]['run_id']} (done), in PLAY MONEY" in latest.stdout
    assert str(terminal.folder / "output" / "swatch.safetensors") in latest.stdout
    assert json.loads(terminal.run("receipt", "--json").stdout) == lines[-1]["receipt"]


@pytest.mark.parametrize("command", ON_RUNS)
def test_a_mistyped_run_is_answered_with_the_nearest(done: tuple[Terminal, list[dict[str, Any]]], command: str) -> None:
    """Exit 2; one letter wrong names the run that was meant, and nonsense names the latest."""
    terminal, lines = done
    run_id = str(lines[-1]["run_id"])
    close = terminal.run(command, run_id[:-1] + ("2" if run_id[-1] != "2" else "3"))
    assert close.returncode == 2
    assert f"Did you mean '{run_id}'?" in close.stderr
    nonsense = terminal.run(command, "_")
    assert nonsense.returncode == 2
    assert f"Latest runs: {run_id}." in nonsense.stderr


@pytest.mark.parametrize("command", ["attach", "stop"])
def test_a_run_that_is_over_has_nothing_to_attach_to_or_to_stop(
    done: tuple[Terminal, list[dict[str, Any]]], command: str
) -> None:
    """Exit 2, and the reason."""
    ended = done[0].run(command)
    assert ended.returncode == 2
    assert "is over" in ended.stderr


def test_attach_brings_the_named_file_home_and_reports_in_json_lines(tmp_path: Path, market: Sandbox) -> None:
    """With a name in gpurent.toml the client is killed; attach --json collects under that name and prints the bill."""
    make_job(tmp_path, steps=30)
    (tmp_path / "gpurent.toml").write_text('[job]\nname = "renamed"\n', encoding="utf-8")
    killed = Cli(tmp_path, market)
    client = killed.start("train", "--budget", "1", "--yes")
    wait_for(lambda: any(event.kind is Kind.PROGRESS for event in killed.events()), "training")
    kill(client)
    ended = Terminal(tmp_path, market.env()).run("attach", "--json")
    assert ended.returncode == 0, ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    assert last["event"] == "receipt"
    assert last["files"] == [str(tmp_path / "output" / "renamed.safetensors")]
    assert (tmp_path / "output" / "renamed.safetensors").is_file()
    assert market.truth() == []
