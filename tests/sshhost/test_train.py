"""The main job on a machine of one's own: real command line, real OpenSSH, real engine."""

from __future__ import annotations

import json
import os
import subprocess
from getpass import getuser
from pathlib import Path

import pytest
from tests.session.world import make_job
from tests.sshhost.machine import Machine
from tests.warm import client as warm

from gpurent.hosts import save_host


class Home:
    """A user's folder and configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def hosts(self) -> Path:
        return self.folder / "config" / "hosts.toml"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("GPURENT_")}
        env |= {
            "GPURENT_CONFIG_DIR": str(self.folder / "config"), "GPURENT_STATE_DIR": str(self.folder / "state"),
            "GPURENT_PROVIDERS": "ssh", "GPURENT_BUDGET_WATCHDOG": "false", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        return warm.run(["gpurent", *arguments], cwd=self.folder, env=env, timeout=200)


@pytest.fixture
def user(tmp_path: Path) -> Home:
    return Home(tmp_path)


def add(machine: Machine, *more: str) -> tuple[str, ...]:
    return (
        "hosts", "add", "box", "--address", "127.0.0.1", "--port", str(machine.port), "--user", getuser(),
        "--key", str(machine.key), "--gpu", "RTX 3090", "--vram", "24", *more,
    )  # fmt: skip


@pytest.mark.thorough(
    shown_by="tests/sshhost/test_own_hosts.py::test_destroy_ends_our_processes_and_leaves_everything_else"
)
def test_a_machine_of_ones_own_trains_and_is_left_as_it_was(user: Home, machines: list[Machine]) -> None:
    """Listed, pinned, quoted, trained on, cleaned; a free machine costs nothing."""
    machine = machines[0]
    added = user.run(*add(machine, "--yes"))
    assert added.returncode == 0, added.stdout + added.stderr
    assert "SHA256:" in added.stdout and "torch 2" in added.stdout
    make_job(user.folder)
    ended = user.run("train", "--budget", "1", "--yes", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    receipt = json.loads(ended.stdout.splitlines()[-1])["receipt"]
    assert receipt["total_micros"] == 0 and receipt["settled"]
    assert (user.folder / "output" / "swatch.safetensors").is_file()
    assert not (machine.home / ".gpurent").exists()
    assert len((machine.home / ".ssh" / "authorized_keys").read_text().splitlines()) == 1


def test_hosts_are_listed_tested_and_forgotten(user: Home, machines: list[Machine]) -> None:
    """Each command says what it did; one in use cannot be removed; a wrong name gets the nearest."""
    assert user.run(*add(machines[0], "--yes", "--price", "0.35", "--note", "lab")).returncode == 0
    again = user.run(*add(machines[0], "--yes"))
    assert again.returncode == 2 and "listed already" in again.stderr
    shown = json.loads(user.run("hosts", "list", "--json").stdout)
    assert shown["box"]["price_micros"] == 350_000 and shown["box"]["host_key"] == machines[0].host_key
    assert "lab" in user.run("hosts", "list").stdout
    assert json.loads(user.run("hosts", "test", "box", "--json").stdout)["python"].startswith("3.")
    wrong = user.run("hosts", "test", "bax")
    assert wrong.returncode == 2 and "'box'" in wrong.stderr
    (machines[0].home / ".gpurent").mkdir()
    (machines[0].home / ".gpurent" / "lease").write_text("tag-9 1")
    used = user.run("hosts", "remove", "box")
    assert used.returncode == 2 and "tag-9" in used.stderr
    assert user.run("hosts", "remove", "box", "--force").returncode == 0
    assert json.loads(user.run("hosts", "list", "--json").stdout) == {}


def test_the_doctor_names_the_machine_that_is_off(user: Home, machines: list[Machine]) -> None:
    """One that answers is enough; with none nothing is ready."""
    assert user.run(*add(machines[0], "--yes")).returncode == 0
    save_host(user.hosts, "off", machines[1].entry(port=1))
    well = user.run("doctor")
    assert well.returncode == 0 and "ok  ssh: 1 of 2 machines answer; off: " in well.stdout, well.stdout
    assert user.run("hosts", "remove", "box").returncode == 0
    assert user.run("doctor").returncode == 1


def test_a_fingerprint_is_not_agreed_to_by_nobody(user: Home, machines: list[Machine]) -> None:
    """Without a terminal and without --yes the machine is shown, and neither pinned nor listed."""
    asked = user.run(*add(machines[0]))
    assert asked.returncode == 2 and "SHA256:" in asked.stdout and "--yes" in asked.stderr
    assert json.loads(user.run("hosts", "list", "--json").stdout) == {}


def test_a_mistake_in_the_file_is_named_with_its_line(user: Home) -> None:
    """File, line, key, and the nearest spelling."""
    (user.folder / "config").mkdir()
    (user.folder / "config" / "hosts.toml").write_text(
        '[hosts.lab]\naddress = "10.0.0.1"\ngpu = "A100"\nvram_gb = 80\nprize = 1\n', encoding="utf-8"
    )
    told = user.run("hosts", "list")
    assert told.returncode == 2 and "line 5: hosts.lab.prize" in told.stderr and "'price'" in told.stderr
