"""What lies in the state folder is its owner's alone, and keys of machines that are gone are not kept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from tests.session.world import Cli, make_job

from gpurent.budget.events import Kind
from gpurent.jobs.keys import forget_keys
from gpurent.localfiles import private_folder


@pytest.mark.parametrize(
    "command",
    [("doctor",), ("status",), ("reap",), ("costs",)],
    ids=lambda command: " ".join(command),
)
def test_whichever_command_comes_first_makes_the_state_folder_private(
    tmp_path: Path, cli: Cli, command: tuple[str, ...]
) -> None:
    """Ledger, logs and keys are nobody else's business."""
    cli.state = tmp_path / "new" / "state"
    cli.run(*command)
    assert cli.state.exists()
    for folder in (cli.state, cli.state.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    """Its owner may share it on purpose; `gpurent doctor` says so."""
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared").chmod(0o755)
    private_folder(tmp_path / "shared" / "runs" / "1")
    modes = [stat.S_IMODE((tmp_path / one).stat().st_mode) for one in ("shared", "shared/runs", "shared/runs/1")]
    assert modes == [0o755, 0o700, 0o700]


def test_doctor_names_a_state_folder_that_others_may_enter(cli: Cli) -> None:
    """With the command that closes it."""
    cli.home.mkdir(parents=True)
    cli.home.chmod(0o755)
    assert f"chmod 700 {cli.home}" in cli.run("doctor").stdout


def test_keys_live_as_long_as_the_machine(cli: Cli) -> None:
    """A client that dies leaves them to the next one; the command that ends the machine deletes them."""
    make_job(cli.folder, steps=400)
    client = cli.begin(Kind.REACHABLE)
    client.kill()
    client.wait()
    assert len(list(cli.home.rglob("id_ed25519"))) == 1
    assert cli.run("reap").returncode == 0
    assert list(cli.home.rglob("*ed25519*")) == [] and cli.sandbox.truth() == []


def test_keys_that_belong_to_no_rental_yet_stay(tmp_path: Path, cli: Cli) -> None:
    """They are made before the rental is written down, and another command may sweep at that moment."""
    from gpurent.budget.ledger import Ledger
    from gpurent.clock import SystemClock
    from gpurent.money import Usd

    ledger = Ledger.open(tmp_path / "ledger.db", SystemClock())
    run_id = ledger.open_run("cat", Usd.parse("1"), output_dir=tmp_path, config={})
    keys = tmp_path / run_id / "keys" / f"gpurent-{run_id}-1"
    keys.mkdir(parents=True)
    forget_keys(tmp_path / run_id, ledger.run(run_id))
    assert keys.is_dir()
    ledger.append(run_id, Kind.RUN_CLOSED, outcome="failed", exit_code=1)
    forget_keys(tmp_path / run_id, ledger.run(run_id))
    assert not keys.parent.exists()
    ledger.close()
