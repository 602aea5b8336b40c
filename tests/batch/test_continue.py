"""A run that goes on: stopped at a share of its steps or by its user, and never with other contents."""

from __future__ import annotations

import json

import pytest
from tests.batch.conftest import Ground
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent import Usd
from gpurent.budget.events import Kind
from gpurent.errors import UsageError
from gpurent.jobs import statefile
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.options import RunOptions
from gpurent.jobs.progress import Notice, Progress, Trained

ONE = Usd.parse("1")


def test_a_run_stopped_at_sixty_percent_goes_on_by_one_command(cli: Cli) -> None:
    """It ends well, with LoRA and state at home; the second command takes the steps that are left and no other."""
    make_job(cli.folder, steps=10)
    first = cli.run("train", "--budget", "1", "--yes", "--stop-at", "60%")
    assert first.returncode == 0, first.stderr
    assert "gpurent continue" in first.stdout and (cli.folder / "output" / "swatch-step00000006.safetensors").is_file()
    assert [event.data["outcome"] for event in cli.events() if event.kind is Kind.RUN_CLOSED] == ["paused"]
    rest = cli.run("continue", "--budget", "1", "--yes")
    assert rest.returncode == 0, rest.stderr
    assert "goes on from step 6 of 10" in rest.stdout
    assert (cli.folder / "output" / "swatch.safetensors").is_file()
    plans = [json.loads(line) for line in cli.run("logs").stdout.splitlines()]
    assert [one["start_step"] for one in plans if one["event"] == "plan"] == [6]
    assert cli.sandbox.truth() == []


def test_what_a_user_stopped_can_be_made_longer_but_not_another(ground: Ground, stub: StubEngine) -> None:
    """One Ctrl-C leaves a state; more epochs go on from it; another caption or a damaged state is refused for free."""
    interrupt = Interrupt()
    stub.order(Orders(step_s=0.3))

    def press(event: Progress) -> None:
        ground.tell(event)
        if isinstance(event, Trained):
            interrupt.request(Stop.ORDERLY)

    job = ground.job("ant", "max_train_epochs = 4")
    done = ground.broker.train(job, budget=ONE, tell=press, interrupt=interrupt)
    assert done.stopped and done.state is not None
    longer, state = ground.broker.resumable(done.run_id, {"max_train_epochs": 6})
    assert 0 < state.step < longer.length.steps == job.length.steps // 4 * 6
    runs = len(ground.broker.ledger.runs())
    caption = next(ground.cli.folder.rglob("red.txt"))
    before = caption.read_text(encoding="utf-8")
    caption.write_text("another", encoding="utf-8")
    with pytest.raises(UsageError, match="is of another training"):
        ground.broker.resumable(done.run_id)
    caption.write_text(before, encoding="utf-8")
    done.state.write_bytes(b"damaged")
    with pytest.raises(UsageError, match="is not what came home"):
        ground.broker.resumable(done.run_id)
    assert len(ground.broker.ledger.runs()) == runs


def test_a_run_that_came_to_its_end_leaves_nothing_to_go_on_from(ground: Ground) -> None:
    """And says so."""
    done = ground.broker.train(ground.job("ant"), budget=ONE, tell=ground.tell)
    assert done.state is None and not any(isinstance(one, Notice) and "continue" in one.message for one in ground.said)
    assert statefile.found(ground.broker.run_dir(done.run_id)) is None
    with pytest.raises(UsageError, match="nothing to go on from"):
        ground.broker.resumable(done.run_id)


def test_a_share_of_the_steps_costs_a_share_of_the_time(ground: Ground) -> None:
    """The quote for the first half counts half of the steps."""
    job = ground.job("ant", "max_train_steps = 200000")
    asked: list[float] = []
    for stop_at in (None, 0.5):
        with pytest.raises(Exception, match="Nothing was rented"):
            ground.broker.train(
                job, budget=Usd.parse("1000"), options=RunOptions(stop_at=stop_at),
                consent=lambda _quote, row: bool(asked.append(row.timeline.train_s.mid)),  # type: ignore[func-returns-value]
            )  # fmt: skip
    assert asked[1] < 0.6 * asked[0]
