"""``stop`` for runs whose command is dead, whatever they had come to."""

from __future__ import annotations

from tests.session.world import Cli, kill, make_job

from gpurent.budget.events import Kind
from gpurent_sandbox.faults import Fault


def test_stop_ends_what_had_not_begun_to_train(cli: Cli) -> None:
    """There is nothing to save: the machine that boots is destroyed and confirmed gone; exit 0, and the run is over."""
    make_job(cli.folder)
    cli.sandbox.faults.set(Fault.BOOT_STUCK, times=1)
    client = cli.begin(Kind.CREATED)
    kill(client)
    ended = cli.run("stop")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert cli.sandbox.truth() == []
    assert "runs any more" in ended.stdout and "told to save" not in ended.stdout
    assert cli.events()[-1].kind is Kind.RUN_CLOSED
    assert cli.run("status").returncode == 0


def test_stop_saves_what_a_dead_command_had_trained(cli: Cli) -> None:
    """It is taken over, saved, collected and destroyed from here."""
    make_job(cli.folder, steps=4000)
    client = cli.begin()
    kill(client)
    ended = cli.run("stop")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []
