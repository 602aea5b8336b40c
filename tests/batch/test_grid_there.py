"""The grid that is drawn on the rented machine: it comes home beside the LoRA, and never endangers it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from tests.batch.conftest import QUICK, Ground
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent import Broker, Usd
from gpurent.budget.events import Kind
from gpurent.clock import SystemClock
from gpurent.jobs.interrupt import Interrupt
from gpurent.jobs.options import RunOptions
from gpurent.jobs.progress import JobBegun, JobOver, Notice, Progress, Stage, StageStarted
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits
from gpurent_sandbox.faults import Fault

ONE = Usd.parse("1")
DRAWN = RunOptions(grid=True)


def notices(ground: Ground) -> str:
    return " ".join(one.message for one in ground.said if isinstance(one, Notice))


def test_it_comes_home_beside_the_lora_once_that_is_verified(ground: Ground) -> None:
    """With its digest in the ledger, as wide and high as was planned; its traffic is counted."""
    job = ground.job("ant", "max_train_steps = 4")
    found = ground.broker.train(job, budget=ONE, options=DRAWN, tell=ground.tell)
    assert found.grid == job.output_dir / "ant-grid.png" and found.files == (job.output_dir / "ant.safetensors",)
    assert job.grid is not None and found.grid is not None
    assert struct.unpack(">II", found.grid.read_bytes()[16:24]) == job.grid.size
    kinds = [(one.kind, Path(str(one.data.get("path"))).name) for one in ground.cli.events()]
    done = [kind for kind, _ in kinds].index(Kind.JOB_DONE)
    assert kinds.index((Kind.CHECKPOINT_HOME, "ant.safetensors")) < done
    assert kinds.index((Kind.CHECKPOINT_HOME, "ant-grid.png")) > done
    assert [one.path.name for one in found.receipt.artefacts] == ["ant.safetensors", "ant-grid.png"]
    assert not list(job.output_dir.glob(".gpurent-*")) and ground.cli.sandbox.truth() == []


FAULTS = {
    "ant": (Orders(grid_fails=True), "ran out of memory"),
    "bee": (
        Orders(grid_says=('{"event": "grid", "path": "../x.png", "sha256": "' + "0" * 64 + '", "size": 9}',)),
        '"../x.png" of 9 bytes as the grid',
    ),
    "cat": (Orders(grid_says=('{"event": "grid"',)), "cannot be read"),
    "dog": (Orders(grid_says=('{"event": "phase", "name": "done"}',)), "ended with status 0"),
    "elk": (Orders(grid_size=(3, 3)), "is not the picture"),
}


def test_one_that_fails_costs_a_notice(ground: Ground, stub: StubEngine) -> None:
    """Whatever the host does, each training is done all the same, and only its LoRA is in the folder."""

    def spoil(event: Progress) -> None:
        if isinstance(event, JobBegun):
            ground.said.clear()
            stub.order(FAULTS[event.name][0])
        ground.tell(event)
        if isinstance(event, JobOver):
            said = notices(ground)
            assert FAULTS[event.name][1] in said and f"gpurent grid {ground.cli.folder}" in said, said

    jobs = ground.jobs(*FAULTS)
    found = ground.broker.batch(jobs, budget=ONE, options=DRAWN, tell=spoil)
    assert [(one.state, one.grid) for one in found.jobs] == [("done", None)] * 5
    assert {path.name for path in jobs[0].output_dir.iterdir()} == {f"{name}.safetensors" for name in FAULTS}
    assert ground.cli.sandbox.truth() == []


def test_a_link_that_freezes_while_one_is_drawn_costs_the_picture_alone(ground: Ground) -> None:
    """The LoRA is at home, the run is done, and the machine is terminated without an answer of it."""

    def freeze(event: Progress) -> None:
        ground.tell(event)
        if isinstance(event, StageStarted) and event.stage is Stage.DRAW:
            ground.cli.sandbox.faults.set(Fault.LINK_FROZEN, p=1.0)

    connector = SshConnector(SystemClock(), Waits(patience_s=1.0, reply_s=2.0))
    with Broker(home=ground.cli.home, patience=QUICK, connector=connector) as broker:
        made = broker.train(ground.job("ant"), budget=ONE, options=DRAWN, tell=freeze)
    assert made.receipt.outcome == "done" and made.grid is None and "No grid was drawn" in notices(ground)
    assert [path.name for path in made.files] == ["ant.safetensors"] and ground.cli.sandbox.truth() == []


def test_a_quote_counts_one_as_the_settings_say(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the training that follows it, with nothing else said."""
    job = ground.job("ant")
    monkeypatch.setenv("GPURENT_JOB_GRID", "false")
    with Broker(home=ground.cli.home) as broker:
        without = broker.quote(job).rows[0].timeline
    monkeypatch.setenv("GPURENT_JOB_GRID", "true")
    with Broker(home=ground.cli.home) as broker:
        beside = broker.quote([job, job]).rows[0].timeline
        with_one = broker.quote(job).rows[0].timeline
    assert without.draw_s.mid == 0 < with_one.draw_s.mid < beside.draw_s.mid


def test_one_is_drawn_where_a_training_stops_for_a_look(ground: Ground) -> None:
    """With ``stop_at``: of the LoRA that it has come to."""
    job = ground.job("ant", "max_train_steps = 6")
    options = RunOptions(grid=True, stop_at=0.5)
    found = ground.broker.train(job, budget=ONE, options=options, tell=ground.tell)
    assert found.state is not None and found.grid == job.output_dir / "ant-step00000003-grid.png"


def test_one_wish_to_stop_ends_a_drawing_and_the_run_is_done(ground: Ground, stub: StubEngine) -> None:
    """What was to be trained is trained."""
    stub.order(Orders(grid_hangs=True))
    wish = Interrupt()

    def press(event: Progress) -> None:
        ground.tell(event)
        if isinstance(event, StageStarted) and event.stage is Stage.DRAW:
            wish.press()

    job = ground.job("ant", "max_train_steps = 4")
    found = ground.broker.train(job, budget=ONE, options=DRAWN, tell=press, interrupt=wish)
    assert found.grid is None and not found.stopped and found.receipt.outcome == "done"
    assert "stopped at your wish" in notices(ground) and ground.cli.sandbox.truth() == []


def test_each_job_of_a_batch_has_its_own_drawn_by_the_process_that_trained_it(
    ground: Ground, stub: StubEngine
) -> None:  # fmt: skip
    """One that fails ends the process, and the next job gets another one."""

    def spoil(event: Progress) -> None:
        ground.tell(event)
        if isinstance(event, StageStarted) and event.stage is Stage.DRAW:
            count = sum(isinstance(one, StageStarted) and one.stage is Stage.DRAW for one in ground.said)
            stub.order(Orders(grid_fails=count == 2))

    jobs = ground.jobs("ant", "bee", "cat")
    found = ground.broker.batch(jobs, budget=ONE, options=DRAWN, tell=spoil)
    assert [one.state for one in found.jobs] == ["done"] * 3
    grids = [one.grid and one.grid.name for one in found.jobs]
    assert grids == ["ant-grid.png", None, "cat-grid.png"]
    assert [[path.name for path in one.files] for one in found.jobs] == [
        ["ant.safetensors"], ["bee.safetensors"], ["cat.safetensors"]
    ]  # fmt: skip
    folder = ground.broker.run_dir(found.run_id or "") / "jobs"
    hellos = [json.loads((folder / str(n) / "events.jsonl").read_text().splitlines()[0])["pid"] for n in (1, 2, 3)]
    assert hellos[0] == hellos[1] != hellos[2]


def test_a_client_that_is_killed_while_one_is_drawn_leaves_the_lora_and_no_machine(
    ground: Ground, stub: StubEngine
) -> None:  # fmt: skip
    """The job is done by then: what reaps after it destroys the machine, and fetches nothing more."""
    stub.order(Orders(grid_hangs=True))
    ground.cli.grids = True
    client = ground.cli.begin(Kind.JOB_DONE)
    client.kill()
    client.wait()
    ended = ground.cli.run("reap", "--yes")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (ground.cli.folder / "output" / "swatch.safetensors").is_file() and ground.cli.sandbox.truth() == []


def test_its_path_is_the_last_line_of_train_and_no_grid_leaves_it_out(ground: Ground) -> None:
    """In the quote as well: without it the time is shorter."""
    ground.cli.grids = True
    shown = ground.cli.run("train", "--budget", "1", "--yes")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stdout.splitlines()[-1] == str(ground.cli.folder / "output" / "swatch-grid.png")
    times = [
        json.loads(ground.cli.run("quote", "--json", *more).stdout)["offers"][0]["total_s"][1]
        for more in ((), ("--no-grid",))
    ]
    assert times[0] > times[1] + 5
    plain = ground.cli.run("train", "--budget", "1", "--yes", "--no-grid", "--json")
    assert json.loads(plain.stdout.splitlines()[-1])["grid"] is None
