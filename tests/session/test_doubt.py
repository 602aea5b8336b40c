"""A machine that nobody looks after is named at the end of every command, and no command says that all is well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.world import Terminal
from tests.session.world import Cli, kill, make_job

from gpurent.budget.events import Kind
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.server import Sandbox


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Where a client was killed while its machine booted."""
    with Sandbox(boot_s=0.2, seed=7) as sandbox:
        cli = Cli(tmp_path_factory.mktemp("left"), sandbox)
        make_job(cli.folder)
        sandbox.faults.set(Fault.BOOT_STUCK, times=1)
        client = cli.start("train", "--budget", "1", "--yes")
        cli.wait(Kind.CREATED)
        kill(client)
        yield cli
        assert len(sandbox.truth()) == 1, "no command here was to end it"


@pytest.mark.parametrize(
    "command",
    [
        "status", "costs --offline", "why", "receipt", "logs", "reap --dry-run", "providers", "doctor", "hosts list",
        "quote --images 5", "watchdog status", "logout vastai", "init other",
        "train --budget 0.000001 --yes", "train --budget 1 --dry-run",
    ],
)  # fmt: skip
def test_every_command_names_what_may_run(left: Cli, command: str) -> None:
    """Whether it went well, failed or found no offer: it exits 5."""
    ended = left.run(*command.split())
    assert ended.returncode == 5, ended.stdout + ended.stderr
    assert ended.stderr.count("Nobody looks after sandbox:") == 1
    assert "gpurent reap" in ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        "attach",
        "attach nonsense",
        "sandbox env",
        "train",
        "receipt x",
        "stop x",
        "tarin",
        "train --budget x",
        "why --bogus",
    ],
)
def test_a_mistake_stays_a_mistake_and_is_no_reason_to_be_silent(left: Cli, command: str) -> None:
    """Exit 2, and the warning."""
    ended = left.run(*command.split())
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stderr.count("Nobody looks after sandbox:") == 1


@pytest.mark.parametrize("command", ["--help", "train --help", "--version", "hosts --help"])
def test_help_is_help(left: Cli, command: str) -> None:
    """What asks for words only opens no ledger."""
    ended = left.run(*command.split())
    assert (ended.returncode, ended.stderr) == (0, "")


def test_programs_read_it_as_json(left: Cli) -> None:
    """One object on standard error; standard output stays what it was."""
    ended = left.run("costs", "--offline", "--json")
    assert ended.returncode == 5
    told = json.loads(ended.stderr)
    assert told["exit_code"] == 5 and told["refs"][0].startswith("sandbox:")
    assert json.loads(ended.stdout)["by"] == "month"


def test_a_broken_configuration_hides_nothing(left: Cli) -> None:
    """The mistake is told once, and the machine is named all the same."""
    (left.folder / "gpurent.toml").write_text("[need]\ngpus = 1\n", encoding="utf-8")
    try:
        ended = left.run("costs", "--offline")
    finally:
        (left.folder / "gpurent.toml").unlink()
    assert ended.returncode == 2
    assert ended.stderr.count("need.gpus") == 1 and "Nobody looks after sandbox:" in ended.stderr


def test_without_a_ledger_nothing_is_opened(tmp_path: Path) -> None:
    """Who never rented waits for no ledger, and finds none made."""
    assert Terminal(tmp_path).run("hosts", "list").returncode == 0
    assert not (tmp_path / "state").exists()
