"""Play money and real money never mix: not in offers, not in a run, not in limits, receipts or costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.session.world import Cli, make_job
from tests.thorough import often

from gpurent import Usd
from gpurent.budget.errors import BudgetError
from gpurent.budget.ledger import Ledger
from gpurent.clock import ManualClock
from gpurent_sandbox.address import SandboxAddress
from gpurent_sandbox.vast import VAST

REAL = {"RUNPOD_API_KEY": "rpa_no_sandbox_key", "RUNPOD_API_BASE_URL": "http://127.0.0.1:9"}
"""RunPod's adapter with a key that is not a sandbox's; nobody answers there, so nothing can be rented."""


@pytest.fixture
def both(cli: Cli) -> Cli:
    """A sandbox and a real service are ready."""
    sandbox = cli.leads
    cli.leads = lambda address: {**sandbox(address), **REAL}
    make_job(cli.folder)
    return cli


def test_with_a_real_provider_ready_the_sandbox_is_neither_listed_nor_rented(both: Cli) -> None:
    """And it is said why."""
    shown = json.loads(both.run("quote", "--json").stdout)
    assert shown["offers"] == [] and any("play money (sandbox) are left out" in note for note in shown["notes"])
    ended = both.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 3 and both.sandbox.market.alive() == []
    assert not any(one.tag for one in both.events())


def test_asked_for_by_name_it_is_listed_and_every_row_says_what_it_is(both: Cli) -> None:
    """Naming it asks for it."""
    (both.folder / "gpurent.toml").write_text('[providers]\nenabled = ["sandbox", "runpod"]\n', encoding="utf-8")
    shown = json.loads(both.run("quote", "--json").stdout)
    assert shown["offers"] and all(row["play_money"] for row in shown["offers"])
    rows = [line for line in both.run("quote").stdout.splitlines() if " min " in line]
    assert rows and all("PLAY MONEY" in row for row in rows)


@pytest.mark.parametrize("leads", often([SandboxAddress.env, VAST.env], [VAST.env]))
def test_a_run_for_play_money_says_so_wherever_it_is_shown(cli: Cli, leads: object) -> None:
    """Also where a look-alike was led to the sandbox under a real service's name."""
    cli.leads = leads  # type: ignore[assignment]
    make_job(cli.folder)
    ended = cli.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 0 and "PLAY MONEY" in ended.stdout
    assert "PLAY MONEY" in cli.run("receipt").stdout
    assert json.loads(cli.run("receipt", "--json").stdout)["play_money"] is True
    (line,) = json.loads(cli.run("costs", "--offline", "--json").stdout)["lines"]
    assert line["play"] is True and "PLAY MONEY" in cli.run("costs", "--offline").stdout


def test_limits_count_play_money_and_real_money_apart(tmp_path: Path) -> None:
    """Ten dollars of play leave a limit of ten real dollars untouched, and the other way round."""
    ledger = Ledger.open(tmp_path / "ledger.db", ManualClock(1_800_000_000.0))
    ten = Usd.parse("10")
    for play in (True, False):
        ledger.open_run("x", ten, output_dir=tmp_path, config={"play": play}, per_day=ten)
        with pytest.raises(BudgetError, match="per day"):
            ledger.open_run("x", ten, output_dir=tmp_path, config={"play": play}, per_day=ten)
    assert [run.play for run in ledger.runs()] == [True, False]
    ledger.close()
