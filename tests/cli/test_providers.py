"""``providers``, ``doctor`` and ``sandbox``: who can be rented from, and what is wrong where nobody can."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.world import COMMAND, Terminal
from tests.session.world import wait_for


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Terminal, subprocess.Popen[str]]]:
    """``gpurent sandbox up`` in another terminal on the same computer."""
    terminal = Terminal(tmp_path_factory.mktemp("served"))
    server = subprocess.Popen(
        [COMMAND, "sandbox", "up"], env=terminal.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for((terminal.folder / "state" / "sandbox" / "sandbox.json").exists, "the sandbox")
    yield terminal, server
    if server.poll() is None:
        server.kill()
        server.communicate()


def test_a_provider_that_cannot_be_used_says_why(alone: Terminal) -> None:
    """Name, reason and what to do about it, in words and as JSON."""
    shown = alone.run("providers")
    assert shown.returncode == 0
    assert "sandbox  no sandbox is running  `gpurent sandbox up` starts one" in shown.stdout
    listed = json.loads(alone.run("providers", "--json").stdout)
    assert listed["ready"] == []
    assert all(problem["message"] and problem["hint"] for problem in listed["problems"])


def test_a_provider_that_is_ready_is_listed(terminal: Terminal) -> None:
    """Play money is marked."""
    assert "sandbox  ready  (play money)" in terminal.run("providers").stdout
    assert json.loads(terminal.run("providers", "--json").stdout)["ready"] == ["sandbox"]


def test_the_doctor_finds_a_healthy_set_up(terminal: Terminal) -> None:
    """Exit 0, and what was looked at: state folder, ledger, the provider's offers and balance."""
    ended = terminal.run("doctor", "--json")
    assert ended.returncode == 0, ended.stdout
    checks = {one["check"]: one for one in json.loads(ended.stdout)}
    assert {"gpurent", "state folder", "ledger", "sandbox"} <= set(checks)
    assert all(one["ok"] for one in checks.values() if one["check"] in ("state folder", "ledger", "sandbox"))
    assert str(terminal.folder / "state") in checks["state folder"]["detail"]
    assert "balance" in checks["sandbox"]["detail"]


def test_the_doctor_names_what_is_missing(alone: Terminal) -> None:
    """Without any provider it exits 1 and says what still works."""
    ended = alone.run("doctor")
    assert ended.returncode == 1
    assert "--  sandbox: no sandbox is running." in ended.stdout
    assert "quotes come from the price table, and nothing can be rented" in ended.stdout


def test_the_doctor_reports_a_provider_that_refuses_the_key(terminal: Terminal) -> None:
    """A wrong key is a failed check, never an abort, and the key is not repeated."""
    ended = terminal.run("doctor", GPURENT_SANDBOX_KEY="sbxa_wrong_key")
    assert ended.returncode in (0, 1)
    assert "--  sandbox: " in ended.stdout
    assert "sbxa_wrong_key" not in ended.stdout + ended.stderr


def test_without_a_sandbox_there_is_no_address(alone: Terminal) -> None:
    """Exit 2 and the command that starts one."""
    ended = alone.run("sandbox", "env")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "gpurent sandbox up" in ended.stderr


def test_a_running_sandbox_is_found_by_every_command(served: tuple[Terminal, subprocess.Popen[str]]) -> None:
    """No variable has to be set; `sandbox env` prints what other programs need."""
    terminal, _ = served
    assert json.loads(terminal.run("providers", "--json").stdout)["ready"] == ["sandbox"]
    assert "PLAY MONEY" in terminal.run("quote", "--images", "5").stdout
    lines = terminal.run("sandbox", "env").stdout.splitlines()
    assert [line.split("=")[0] for line in lines] == ["export GPURENT_SANDBOX_URL", "export GPURENT_SANDBOX_KEY"]
    exported = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    elsewhere = Terminal(terminal.folder / "state", exported)
    assert json.loads(elsewhere.run("providers", "--json").stdout)["ready"] == ["sandbox"]


def test_a_second_sandbox_is_refused(served: tuple[Terminal, subprocess.Popen[str]]) -> None:
    """Two markets in one state folder would bill each other's machines."""
    ended = served[0].run("sandbox", "up")
    assert ended.returncode == 2
    assert "a sandbox is already running" in ended.stderr


def test_one_interrupt_ends_the_sandbox(served: tuple[Terminal, subprocess.Popen[str]]) -> None:
    """Exit 0, and its address is withdrawn."""
    terminal, server = served
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=30)
    assert (server.returncode, err) == (0, "")
    assert "gpurent sandbox env" in out
    assert not Path(terminal.folder / "state" / "sandbox" / "sandbox.json").exists()
    assert terminal.run("sandbox", "env").returncode == 2


def test_the_variables_of_the_look_alikes_lead_the_real_adapters_there(tmp_path: Path) -> None:
    """``sandbox up --vast --runpod`` prints them; with nothing else both adapters log in and offer machines."""
    terminal = Terminal(tmp_path)
    server = subprocess.Popen(
        [COMMAND, "sandbox", "up", "--vast", "--runpod"], env=terminal.env, text=True, stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        exported: dict[str, str] = {}
        while len(exported) < 6:
            line = server.stdout.readline()
            assert line, "the sandbox ended"
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                exported[name] = value
        assert set(exported) >= {"VAST_URL", "VAST_API_KEY", "RUNPOD_API_BASE_URL", "RUNPOD_API_KEY"}
        (tmp_path / "elsewhere").mkdir()
        elsewhere = Terminal(tmp_path / "elsewhere", exported | {"GPURENT_PROVIDERS": "vastai,runpod"})
        well = elsewhere.run("doctor")
        assert well.returncode == 0, well.stdout + well.stderr
        assert "ok  vastai: answers, balance" in well.stdout and "key from VAST_API_KEY" in well.stdout
        assert "ok  runpod: answers, balance" in well.stdout and "key from RUNPOD_API_KEY" in well.stdout
        quote = elsewhere.run("quote", "--images", "5", "--limit", "500", "--json")
        assert {one["provider"] for one in json.loads(quote.stdout)["offers"]} == {"vastai", "runpod"}
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
    assert server.returncode == 0
