"""Several jobs on one rental: what is shared, what fails alone, what the money pays for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from tests.batch.conftest import QUICK, Ground
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent import Broker, Usd
from gpurent.budget.events import Kind
from gpurent.clock import SystemClock
from gpurent.errors import JobFailed, NoOffer, UsageError
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.options import BatchOptions
from gpurent.jobs.progress import JobBegun, JobOver, Progress, Spending, Stage, StageStarted, Trained
from gpurent.report.shares import shares

ONE = Usd.parse("1")


class Jumping(SystemClock):
    """Hours of rental pass in a moment."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


def test_five_jobs_share_one_machine_one_process_and_one_upload_of_each_file(ground: Ground) -> None:
    """All are home, in order of their length; every share of the bill is there, and they add up to it."""
    jobs = ground.jobs("ant", "bee", "cat", "dog", "elk")
    found = ground.broker.batch(list(reversed(jobs)), budget=ONE, tell=ground.tell)
    assert [(one.state, one.why) for one in found.jobs] == [("done", "")] * 5 and found.complete and not found.stopped
    assert [one.name for one in found.jobs] == ["elk", "dog", "cat", "bee", "ant"]
    assert [one.name for one in ground.said if isinstance(one, JobBegun)] == ["ant", "bee", "cat", "dog", "elk"]
    assert all((job.output_dir / f"{job.name}.safetensors").is_file() for job in jobs)
    run = ground.broker.ledger.run(found.run_id or "")
    (rental,) = run.rentals
    assert len(rental.jobs) == 5 and run.outcome == "done"
    uploads = [one.total for one in ground.said if isinstance(one, StageStarted) and one.stage is Stage.UPLOAD]
    assert uploads[0] and uploads[1:] == [0] * 4
    folders = [ground.broker.run_dir(run.id) / "jobs" / str(number) for number in range(1, 6)]
    hellos = [json.loads((one / "events.jsonl").read_text().splitlines()[0]) for one in folders]
    assert {one["event"] for one in hellos} == {"hello"} and len({one["pid"] for one in hellos}) == 1
    assert found.receipt is not None
    assert Usd.total([one.setup + one.training for one in found.jobs]) == found.receipt.total
    assert ground.cli.sandbox.truth() == []


def test_a_job_that_fails_leaves_the_others_alone(ground: Ground, stub: StubEngine) -> None:
    """The engine gives up one of three; the others come home, and what went wrong is said of the one."""
    jobs = ground.jobs("ant", "bee", "cat")

    def spoil(event: Progress) -> None:
        ground.tell(event)
        if isinstance(event, JobBegun):
            stub.order(Orders(fail_at=2 if event.name == "bee" else None))

    found = ground.broker.batch(jobs, budget=ONE, tell=spoil)
    assert [one.state for one in found.jobs] == ["done", "failed", "done"]
    assert "the loss is not a number" in found.jobs[1].why and not found.complete
    run = ground.broker.ledger.run(found.run_id or "")
    assert run.outcome == "partial" and len(run.rentals) == 1


@pytest.mark.thorough(shown_by="tests/batch/test_batch.py::test_a_job_that_fails_leaves_the_others_alone")
def test_a_batch_may_stop_at_the_first_failure(ground: Ground, stub: StubEngine) -> None:
    """Then the jobs after it are named as not begun, with the reason."""
    stub.order(Orders(fail_at=2))
    found = ground.broker.batch(ground.jobs("ant", "bee"), budget=ONE, batch=BatchOptions(on_failure="stop"))
    assert [one.state for one in found.jobs] == ["failed", "not begun"]
    assert "ant failed before" in found.jobs[1].why


def test_what_is_done_is_not_trained_again_unless_asked_for(ground: Ground) -> None:
    """A batch that is called again, longer, trains what is new; a changed caption makes a job new; ``again`` all."""
    first = ground.broker.batch(ground.jobs("ant", "bee"), budget=ONE)
    second = ground.broker.batch(ground.jobs("ant", "bee", "cat"), budget=ONE)
    assert [one.state for one in second.jobs] == ["had", "had", "done"]
    assert second.jobs[0].files == first.jobs[0].files[-1:] and (first.run_id or "") in second.jobs[0].why
    third = ground.broker.batch(ground.jobs("ant", "bee", "cat"), budget=ONE)
    assert third.run_id is None and third.complete and third.receipt is None
    next(ground.cli.folder.rglob("red.txt")).write_text("another caption", encoding="utf-8")
    changed = ground.broker.batch(ground.jobs("ant"), budget=ONE)
    assert [one.state for one in changed.jobs] == ["done"]
    again = ground.broker.batch(ground.jobs("ant"), budget=ONE, batch=BatchOptions(again=True))
    assert [one.state for one in again.jobs] == ["done"]


@pytest.mark.thorough(shown_by="tests/batch/test_batch.py::test_what_is_done_is_not_trained_again_unless_asked_for")
def test_a_result_whose_file_is_gone_is_made_again(ground: Ground) -> None:
    """The ledger's word is not enough: the file has to be there, as it came home."""
    (job,) = ground.jobs("ant")
    ground.broker.batch([job], budget=ONE)
    (job.output_dir / "ant.safetensors").write_bytes(b"something else")
    assert [one.state for one in ground.broker.batch([job], budget=ONE).jobs] == ["done"]


def test_a_stop_in_the_middle_keeps_what_is_home_and_names_the_rest(ground: Ground, stub: StubEngine) -> None:
    """One Ctrl-C: the job that trains saves and ends, the next is not begun; called again, the batch goes on."""
    interrupt = Interrupt()
    stub.order(Orders(step_s=0.3))

    def press(event: Progress) -> None:
        ground.tell(event)
        begun = [one for one in ground.said if isinstance(one, JobBegun)]
        if isinstance(event, Trained) and len(begun) == 2:
            interrupt.request(Stop.ORDERLY)

    jobs = ground.jobs("ant", "bee", "cat", steps=6)
    found = ground.broker.batch(jobs, budget=ONE, tell=press, interrupt=interrupt)
    assert [one.state for one in found.jobs] == ["done", "stopped", "not begun"] and found.stopped
    assert ground.broker.ledger.run(found.run_id or "").outcome == "interrupted"
    stub.order(Orders())
    rest = ground.broker.batch(jobs, budget=ONE)
    assert [one.state for one in rest.jobs] == ["had", "done", "done"]


def test_a_machine_that_dies_costs_its_job_a_second_try_on_another(ground: Ground) -> None:
    """What was home stays, and is not trained again; the rest goes on where the budget still pays."""
    killed: list[str] = []

    def strike(event: Progress) -> None:
        ground.tell(event)
        begun = [one.name for one in ground.said if isinstance(one, JobBegun)]
        if isinstance(event, Trained) and len(begun) == 2 and not killed:
            (alive,) = ground.cli.sandbox.truth()
            killed.append(alive.ref)
            ground.cli.sandbox.market.vanish(alive.ref)

    jobs = ground.jobs("ant", "bee", "cat", steps=40)
    found = ground.broker.batch(jobs, budget=ONE, tell=strike)
    assert [one.state for one in found.jobs] == ["done"] * 3
    run = ground.broker.ledger.run(found.run_id or "")
    assert [[job.name for job in rental.jobs] for rental in run.rentals] == [["ant", "bee"], ["bee", "cat"]]
    parts = shares(run, ground.broker.clock.now())
    assert found.receipt is not None
    assert Usd.total([setup + training for setup, training in parts.values()]) == found.receipt.total


def test_two_jobs_of_one_name_and_shared_files_are_named_before_any_money(ground: Ground) -> None:
    """All that is wrong at once."""
    (ant, bee), (other,) = ground.jobs("ant", "bee"), ground.jobs("ant")
    twin = replace(bee, name="bee2", spec=replace(bee.spec, output_name="bee"))
    assert twin.name == "bee2"
    with pytest.raises(UsageError, match=r"two jobs are called ant") as refused:
        ground.broker.batch([ant, other, bee], budget=ONE)
    assert "output_name" in refused.value.hint
    assert ground.broker.ledger.runs() == ()


def test_a_budget_for_fewer_jobs_than_asked_says_which_and_begins_them_only_when_told_to(ground: Ground) -> None:
    """The error names what surely fits, what may not, and how much is enough."""
    jobs = [*ground.jobs("ant", "bee"), ground.job("cat", "max_train_steps = 2000000")]
    jobs = [job.without_grid() for job in jobs]  # as the batch trains them here
    enough = min(row.asks for row in ground.broker.batch_quote(jobs).quote.rows)
    between = min(row.asks for row in ground.broker.batch_quote(jobs[:2]).quote.rows)
    with pytest.raises(NoOffer, match=r"surely pays for 2 of 3 jobs: ant, bee\. .* for cat") as refused:
        ground.broker.batch(jobs, budget=between)
    assert "--partial" in refused.value.hint and refused.value.enough == enough.micros
    assert ground.broker.ledger.runs() == ()
    found = ground.broker.batch(jobs, budget=between, batch=BatchOptions(partial=True))
    assert [one.state for one in found.jobs] == ["done", "done", "not begun"]
    assert found.receipt is not None and found.receipt.total <= between


def test_the_quote_for_a_batch_is_far_below_that_of_separate_rentals(ground: Ground) -> None:
    """Set-up is counted once."""
    found = ground.broker.batch_quote(ground.jobs("ant", "bee", "cat", "dog", "elk"))
    assert found.apart is not None
    assert found.quote.rows[0].mid.total.micros < 0.5 * found.apart.micros


def test_a_job_that_no_longer_fits_the_money_left_is_named_and_not_begun(ground: Ground) -> None:
    """A moment before training has to end, nothing is begun any more; what is home stays."""
    clock = Jumping()
    soft: list[float] = []

    def jump(event: Progress) -> None:
        if isinstance(event, Spending):
            soft.append(event.soft_deadline)
        if isinstance(event, JobOver) and event.state == "done":
            clock.ahead += soft[-1] - 0.05 - clock.now()

    with Broker(home=ground.cli.home, patience=QUICK, clock=clock) as broker:
        found = broker.batch(ground.jobs("ant", "bee"), budget=ONE, tell=jump)
    assert [one.state for one in found.jobs] == ["done", "not begun"]
    assert "the money left pays for" in found.jobs[1].why


def test_a_batch_of_one_job_that_cannot_be_trained_says_so_as_train_does(ground: Ground, stub: StubEngine) -> None:
    """Its failure is in its result; ``train`` raises."""
    stub.order(Orders(fail_at=1))
    (job,) = ground.jobs("ant")
    assert [one.state for one in ground.broker.batch([job], budget=ONE).jobs] == ["failed"]
    with pytest.raises(JobFailed):
        ground.broker.train(job, budget=ONE)
    kinds = [event.kind for event in ground.broker.ledger.events()]
    assert kinds.count(Kind.JOB_FAILED) == 2


@pytest.mark.thorough(
    shown_by="tests/batch/test_batch.py::test_five_jobs_share_one_machine_one_process_and_one_upload_of_each_file"
)
def test_five_jobs_cost_at_most_half_of_five_runs(ground: Ground, stub: StubEngine) -> None:
    """In one market, with an engine that takes two seconds to start: against five runs like the cheaper of two."""
    stub.order(Orders(start_s=2.0))
    jobs = ground.jobs("ant", "bee", "cat", "dog", "elk")
    apart = [ground.broker.train(ground.job(f"{name}-alone"), budget=ONE).receipt.total for name in ("ant", "elk")]
    together = ground.broker.batch(jobs, budget=ONE)
    assert together.complete and together.receipt is not None
    assert together.receipt.total.micros <= 0.5 * 5 * min(apart).micros


def test_a_process_that_is_killed_costs_its_job_alone(ground: Ground, stub: StubEngine) -> None:
    """The next one is given another process, on the same machine."""

    def kill(event: Progress) -> None:
        if isinstance(event, JobBegun):
            stub.order(Orders(die_at=2 if event.name == "ant" else None))

    found = ground.broker.batch(ground.jobs("ant", "bee", "cat"), budget=ONE, tell=kill)
    assert [one.state for one in found.jobs] == ["failed", "done", "done"]
    assert len(ground.broker.ledger.run(found.run_id or "").rentals) == 1


@pytest.mark.thorough(shown_by="tests/batch/test_batch.py::test_a_process_that_is_killed_costs_its_job_alone")
def test_three_processes_that_die_in_a_row_end_their_machine(ground: Ground, stub: StubEngine) -> None:
    """It may be broken: its jobs get one more try, elsewhere."""
    stub.order(Orders(die_at=2))

    def rented(event: Progress) -> None:
        ground.tell(event)
        if sum(isinstance(one, JobBegun) for one in ground.said) == 4:
            stub.order(Orders())

    found = ground.broker.batch(ground.jobs("ant", "bee", "cat", "dog"), budget=ONE, tell=rented)
    assert [one.state for one in found.jobs] == ["done"] * 4
    run = ground.broker.ledger.run(found.run_id or "")
    assert [[job.name for job in one.jobs] for one in run.rentals] == [
        ["ant", "bee", "cat"],
        ["ant", "bee", "cat", "dog"],
    ]
    assert "3 trainings in a row died on it" in run.rentals[0].failure


def test_the_next_dataset_is_sent_while_a_job_trains(ground: Ground, stub: StubEngine) -> None:
    """Another dataset than the first: when its job begins, everything is there."""
    stub.order(Orders(step_s=0.2))
    shutil.copytree(ground.cli.folder / "training_data", ground.cli.folder / "others")
    next((ground.cli.folder / "others").rglob("red.txt")).write_text("another caption", encoding="utf-8")
    bee = ground.job("bee", 'train_data_dir = "others"', "max_train_steps = 20")
    ground.broker.batch([*ground.jobs("ant", steps=10), bee], budget=ONE, tell=ground.tell)
    uploads = [one.total for one in ground.said if isinstance(one, StageStarted) and one.stage is Stage.UPLOAD]
    assert len(uploads) == 2 and uploads[0] and uploads[1] == 0
