"""``hosts add``, ``test`` and ``remove`` when something is wrong: what is said, and what stays in the list."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sshhost.machine import Machine, keygen
from tests.sshhost.test_train import Home, add

from gpurent.cli.hosts import missing
from gpurent.hosts import OwnHost, load_hosts, save_host
from gpurent.spi import Probe


@pytest.fixture
def user(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_failed_add_lists_nothing(user: Home, machines: list[Machine]) -> None:
    """Whatever fails, the same command can be given again; a refused connection is explained."""
    off = list(add(machines[0], "--yes"))
    off[off.index("--port") + 1] = "1"
    refused = user.run(*off)
    assert refused.returncode == 1 and "Nothing listens at port 1" in refused.stderr
    assert load_hosts(user.hosts) == {}
    other = user.folder / "other_key"
    keygen(other)
    strange = list(add(machines[0], "--yes"))
    strange[strange.index("--key") + 1] = str(other)
    denied = user.run(*strange)
    assert denied.returncode == 1 and "refuses our key" in denied.stderr
    assert load_hosts(user.hosts) == {}
    assert user.run(*add(machines[0], "--yes")).returncode == 0
    assert list(load_hosts(user.hosts)) == ["box"]


def test_a_missing_key_file_is_noticed_at_once(user: Home, machines: list[Machine]) -> None:
    """Before anything is asked of the machine."""
    before = machines[0].logins
    wrong = list(add(machines[0], "--yes"))
    wrong[wrong.index("--key") + 1] = "/no/such/key"
    told = user.run(*wrong)
    assert told.returncode == 2 and "--key /no/such/key cannot be read" in told.stderr
    assert machines[0].logins == before and load_hosts(user.hosts) == {}


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        ("", "a GPU: nvidia-smi shows none"),
        ("NVIDIA GeForce RTX 3080, 24576 MiB, 570.86\n", "there is NVIDIA GeForce RTX 3080"),
        ("NVIDIA GeForce RTX 3090, 12288 MiB, 570.86\n", "GPU memory: 12 GiB, listed are 24"),
    ],
)
def test_a_machine_without_what_it_is_listed_with_fails(
    user: Home, machines: list[Machine], gpus: str, said: str
) -> None:
    """``test`` exits 1 and says what is missing, ``add`` does not list it; as JSON too."""
    save_host(user.hosts, "lab", machines[0].entry(disk_gb=1))
    (machines[0].folder / "gpus").write_text(gpus, encoding="utf-8")
    told = user.run("hosts", "test", "lab")
    assert told.returncode == 1 and said in told.stderr, told.stdout + told.stderr
    as_json = user.run("hosts", "test", "lab", "--json")
    assert as_json.returncode == 1 and said in json.loads(as_json.stdout)["missing"][0]
    added = user.run(*add(machines[0], "--yes"))
    assert added.returncode == 1 and list(load_hosts(user.hosts)) == ["lab"]


@pytest.mark.parametrize(
    ("found", "count"),
    [
        (Probe(("NVIDIA A100-PCIE-40GB, 40960 MiB, 550.1",), "3.11.2", "none", 60), 0),
        (Probe(("NVIDIA A100-PCIE-40GB, 40960 MiB, 550.1",), "none", "none", 60), 1),
        (Probe(("NVIDIA A100-PCIE-40GB, 40960 MiB, 550.1",), "3.9.7", "none", 10), 2),
    ],
)
def test_names_are_compared_as_the_price_table_knows_them(found: Probe, count: int) -> None:
    """What nvidia-smi calls A100-PCIE-40GB is the A100 PCIE that was listed; Python and disk have to do."""
    assert len(missing(OwnHost(address="a", gpu="A100 PCIE", vram_gb=40), found)) == count


def test_a_listed_machine_with_several_gpus_has_them(user: Home, machines: list[Machine]) -> None:
    """``--gpu-count`` is kept, and compared."""
    (machines[0].folder / "gpus").write_text("NVIDIA GeForce RTX 3090, 24576 MiB, 570.86\n" * 2, encoding="utf-8")
    assert user.run(*add(machines[0], "--yes", "--gpu-count", "2")).returncode == 0
    assert load_hosts(user.hosts)["box"].gpu_count == 2
    (machines[0].folder / "gpus").write_text("NVIDIA GeForce RTX 3090, 24576 MiB, 570.86\n", encoding="utf-8")
    told = user.run("hosts", "test", "box")
    assert told.returncode == 1 and "1 of the 2 listed" in told.stderr


def test_a_machine_with_a_small_disk_is_listed_with_what_it_has(user: Home, machines: list[Machine]) -> None:
    """Nobody has to look up what is free; a size that was asked for has to be there."""
    (machines[0].folder / "free_kb").write_text(f"{48 * 1024**2 + 1}\n", encoding="utf-8")
    asked = user.run(*add(machines[0], "--yes", "--disk", "50"))
    assert asked.returncode == 1 and "48 GB are free, listed are 50" in asked.stderr
    added = user.run(*add(machines[0], "--yes"))
    assert added.returncode == 0 and load_hosts(user.hosts)["box"].disk_gb == 48


def test_a_dead_machine_can_be_forgotten(user: Home, machines: list[Machine]) -> None:
    """Its silence names the option."""
    save_host(user.hosts, "dead", machines[0].entry(port=1))
    told = user.run("hosts", "remove", "dead")
    assert told.returncode == 2 and "hosts remove dead --force" in told.stderr
    assert user.run("hosts", "remove", "dead", "--force").returncode == 0
    assert load_hosts(user.hosts) == {}


def test_a_quote_says_which_machine_is_not_offered(user: Home, machines: list[Machine]) -> None:
    """One that is off, and one that is in use."""
    save_host(user.hosts, "well", machines[0].entry())
    save_host(user.hosts, "off", machines[0].entry(port=1))
    save_host(user.hosts, "busy", machines[1].entry())
    (machines[1].home / ".gpurent").mkdir()
    (machines[1].home / ".gpurent" / "lease").write_text("tag-9 1")
    notes = json.loads(user.run("quote", "--images", "20", "--json").stdout)["notes"]
    assert any(note.startswith("off is not offered: ") and "Nothing listens" in note for note in notes)
    assert "busy is not offered: in use by tag-9" in notes and not any("well" in note for note in notes)


def test_json_asks_nobody_and_shows_the_fingerprint(user: Home, machines: list[Machine]) -> None:
    """On a real terminal as well: without --yes nothing is pinned, and the error holds what to compare."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GPURENT_")}
    env |= {"GPURENT_CONFIG_DIR": str(user.hosts.parent), "GPURENT_STATE_DIR": str(user.folder / "state")}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "gpurent"), *add(machines[0], "--json")],
        cwd=user.folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 30)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait(timeout=30) == 2
    assert b"SHA256:" in shown and b"--yes" in shown and load_hosts(user.hosts) == {}
