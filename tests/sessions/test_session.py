"""Job after job on one machine: what waits, what is refused, what ends it, and what the waiting costs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.batch.conftest import Ground
from tests.session.world import wait_for
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent import SessionOptions, Usd
from gpurent.budget.errors import BudgetError
from gpurent.budget.events import Event, Kind
from gpurent.errors import Interrupted, JobFailed, NoOffer, UsageError
from gpurent.jobs.progress import Notice, Stage, StageStarted, Trained
from gpurent.plan.quote import QuoteRow
from gpurent_sandbox.faults import Fault

ONE = Usd.parse("1")


def notices(ground: Ground) -> str:
    return " ".join(one.message for one in ground.said if isinstance(one, Notice))


def test_two_jobs_share_a_machine_that_is_rented_for_the_first_and_ended_with_the_block(ground: Ground) -> None:
    """Files and share of each come back as from ``train``; what both and the waiting cost adds up to the bill."""
    ant, bee = ground.jobs("ant", "bee")
    with ground.broker.session(budget=ONE, tell=ground.tell) as session:
        assert session.status().state == "no machine" and session.left == ONE
        first = session.train(ant)
        assert session.status().state == "idle" and len(ground.cli.sandbox.truth()) == 1
        second = session.train(bee)
        assert session.left < ONE
    run = ground.broker.ledger.run(session.run_id)
    (rental,) = run.rentals
    assert [job.name for job in rental.jobs] == ["ant", "bee"] and run.outcome == "done"
    assert [one.files[-1].name for one in (first, second)] == ["ant.safetensors", "bee.safetensors"]
    uploads = [one.total for one in ground.said if isinstance(one, StageStarted) and one.stage is Stage.UPLOAD]
    assert uploads[0] and uploads[1:] == [0]
    assert first.share is not None and second.share is not None and first.share.training > Usd(0)
    bill = ground.broker.receipt(session.run_id)
    assert bill.idle > Usd(0)
    assert Usd.total([one.setup + one.training for one in bill.jobs]) + bill.idle == bill.total
    assert ground.cli.sandbox.truth() == []
    assert session.status().state == "closed"
    with pytest.raises(UsageError, match="the session is closed"):
        session.train(ant)


def test_a_machine_without_a_job_ends_at_the_idle_limit_and_the_next_job_rents_again(ground: Ground) -> None:
    """What waiting cost is told beforehand, and a line of the receipt; the session itself stays open."""
    ant, bee = ground.jobs("ant", "bee")
    with ground.broker.session(budget=ONE, session=SessionOptions(idle_minutes=0.03), tell=ground.tell) as session:
        session.train(ant)
        wait_for(lambda: session.status().state == "no machine", "the end of the idle machine")
        assert ground.cli.sandbox.truth() == []
        assert "for 2 s at most, which cost $0.0" in notices(ground) and "No job came for 2 s" in notices(ground)
        idle = session.status().idle
        assert idle > Usd(0)
        assert session.train(bee).files
    run = ground.broker.ledger.run(session.run_id)
    assert [[job.name for job in rental.jobs] for rental in run.rentals] == [["ant"], ["bee"]]
    assert run.outcome == "done" and ground.broker.receipt(run.id).idle >= idle


def test_an_exception_in_the_block_terminates_the_machine_and_is_what_comes_out(ground: Ground) -> None:
    """A typing mistake in a notebook costs no more than the moment in which it is made."""
    (ant,) = ground.jobs("ant")
    with pytest.raises(ZeroDivisionError), ground.broker.session(budget=ONE) as session:
        session.train(ant)
        raise ZeroDivisionError
    assert ground.cli.sandbox.truth() == []
    assert ground.broker.ledger.run(session.run_id).outcome == "done"


def test_a_job_that_no_longer_fits_is_named_with_what_would_fit(ground: Ground) -> None:
    """It is not begun, and the session goes on with the next one on the same machine."""
    ant, cat = ground.jobs("ant", "cat")
    elephant = ground.job("elephant", "max_train_steps = 90000000")
    with ground.broker.session(budget=ONE) as session:
        session.train(ant)
        with pytest.raises(BudgetError, match=r"elephant is not begun: it needs about \d+ s") as refused:
            session.train(elephant)
        assert "of its 90000000 steps would fit: max_train_steps = " in refused.value.hint
        assert session.train(cat).files
    (rental,) = ground.broker.ledger.run(session.run_id).rentals
    assert [job.name for job in rental.jobs] == ["ant", "cat"]


def test_a_first_job_that_the_budget_does_not_pay_for_rents_nothing(ground: Ground) -> None:
    """Neither alone, nor where it would pay for the job and not for the wait after it."""
    ant = ground.job("ant")
    session = ground.broker.session(budget=Usd.parse("0.001"))
    with session, pytest.raises(NoOffer, match=r"ant is not begun: .* too little"):
        session.train(ant)
    cheapest = ground.broker.quote(ant).rows[0].asks
    options = SessionOptions(idle_minutes=240)
    session = ground.broker.session(budget=cheapest, session=options)
    with session, pytest.raises(NoOffer, match="not for waiting 240 min after it as well") as refused:
        session.train(ant)
    assert refused.value.enough is not None and refused.value.enough > cheapest.micros
    assert not ground.broker.ledger.run(session.run_id).rentals


def test_what_does_not_belong_into_a_session_is_refused_by_name(ground: Ground) -> None:
    """Another base model, a file of an earlier job, a GPU that is too small: nothing is begun, the session stays."""
    ant, bee = ground.jobs("ant", "bee")
    session = ground.broker.session(base_model="someone/else", budget=ONE)
    with session, pytest.raises(UsageError, match=r"ant trains on .*tiny-sd, and this session on someone/else"):
        session.train(ant)
    large = replace(bee, spec=replace(bee.spec, train_batch_size=4096, resolution=(2048, 2048)))
    with ground.broker.session(budget=ONE) as session:
        session.train(ant)
        with pytest.raises(UsageError, match="ant would replace the files of ant"):
            session.train(ant)
        with pytest.raises(UsageError, match=r"bee cannot be trained on this .*: .* GB of GPU memory"):
            session.train(large)
        assert session.train(bee).files


def test_a_job_that_fails_by_its_own_fault_costs_that_job_alone(ground: Ground, stub: StubEngine) -> None:
    """It may be handed in again, corrected, under the same name."""
    ant = ground.job("ant")
    with ground.broker.session(budget=ONE) as session:
        stub.order(Orders(fail_at=2))
        with pytest.raises(JobFailed, match="the loss is not a number"):
            session.train(ant)
        stub.order(Orders())
        assert session.train(ant).files
    run = ground.broker.ledger.run(session.run_id)
    assert len(run.rentals) == 1 and run.outcome == "done"


def test_a_machine_that_is_lost_is_replaced_for_the_job_that_was_on_it(ground: Ground) -> None:
    """In mid-training at once, while it waits with the next job."""
    jobs = ground.jobs("ant", "bee", "cat", steps=40)
    killed: list[str] = []

    def strike(event: object) -> None:
        if isinstance(event, Trained) and not killed:
            vanish()

    def vanish() -> None:
        (alive,) = ground.cli.sandbox.truth()
        killed.append(alive.ref)
        ground.cli.sandbox.market.vanish(alive.ref)

    with ground.broker.session(budget=ONE, tell=ground.tell) as session:
        session.train(jobs[0])
        assert session.train(jobs[1], tell=strike).files
        vanish()
        assert session.train(jobs[2]).files
    run = ground.broker.ledger.run(session.run_id)
    assert [[job.name for job in rental.jobs] for rental in run.rentals] == [["ant", "bee"], ["bee"], ["cat"]]
    assert ground.cli.sandbox.truth() == []


def test_a_session_can_be_closed_from_elsewhere_through_the_ledger(ground: Ground) -> None:
    """Its machine ends, and who hands in another job is told."""
    ant, bee = ground.jobs("ant", "bee")
    with ground.broker.session(budget=ONE) as session:
        session.train(ant)
        ground.broker.ledger.append(session.run_id, Kind.STOP_REQUESTED)
        wait_for(lambda: session.over, "the end of the session")
        assert ground.cli.sandbox.truth() == []
        with pytest.raises(UsageError, match="bee is not begun"):
            session.train(bee)
    assert ground.broker.ledger.run(session.run_id).outcome == "done"


def test_a_machine_whose_link_freezes_while_it_waits_is_terminated_at_once_by_close(ground: Ground) -> None:
    """Nobody waits for an answer of it."""
    session = ground.broker.session(budget=ONE, tell=ground.tell)
    session.train(ground.job("ant"))
    ground.cli.sandbox.faults.set(Fault.LINK_FROZEN, p=1.0)
    session.close()
    assert ground.cli.sandbox.truth() == [] and ground.broker.ledger.run(session.run_id).outcome == "done"


def test_closing_while_a_job_trains_ends_both_at_once_or_saves_first(ground: Ground, stub: StubEngine) -> None:
    """``close`` from another thread; with ``save`` what was trained comes home."""
    stub.order(Orders(step_s=0.2))
    session = ground.broker.session(budget=ONE)
    begun = threading.Event()

    def tell(event: object) -> None:
        if isinstance(event, Trained):
            begun.set()

    def close() -> None:
        assert begun.wait(60)
        session.close(save=True)

    closing = threading.Thread(target=close)
    closing.start()
    made = session.train(ground.job("ant", "max_train_steps = 400"), tell=tell)
    closing.join(60)
    assert made.stopped and made.files and ground.cli.sandbox.truth() == []
    assert ground.broker.ledger.run(session.run_id).outcome == "interrupted"
    begun.clear()
    session = ground.broker.session(budget=ONE)

    def now() -> None:
        assert begun.wait(60)
        session.close()

    closing = threading.Thread(target=now)
    closing.start()
    with pytest.raises(Interrupted):
        session.train(ground.job("bee", "max_train_steps = 400"), tell=tell)
    closing.join(60)
    assert ground.cli.sandbox.truth() == []


def test_consent_is_asked_before_a_machine_is_rented_and_not_for_jobs_on_it(ground: Ground) -> None:
    """A refusal rents nothing, and leaves the session open."""
    ant, bee = ground.jobs("ant", "bee")
    answers, asked = [False, True], list[str]()

    def consent(_quote: object, row: QuoteRow) -> bool:
        asked.append(row.offer.gpu)
        return answers.pop(0)

    with ground.broker.session(budget=ONE, consent=consent) as session:
        with pytest.raises(Interrupted, match="ant is not begun, and nothing was rented"):
            session.train(ant)
        assert ground.cli.sandbox.truth() == []
        session.train(ant)
        session.train(bee)
    assert len(asked) == 2


CLIENT = """
import sys, time
from gpurent import Broker, Job, SessionOptions, Usd
def tell(event):
    print(event, flush=True)
with Broker() as broker:
    session = broker.session(budget=Usd.parse("1"), session=SessionOptions(idle_minutes=float(sys.argv[1])), tell=tell)
    session.train(Job.from_config("training_config.toml"))
    time.sleep(600)
"""


def killed(ground: Ground, moment: Callable[[Event], bool], idle_minutes: float) -> str:
    """A program of its own with a session, killed at the line that ``moment`` knows; the session's id."""
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(idle_minutes)],
        cwd=ground.cli.folder,
        env=ground.cli.env,
        stdout=subprocess.DEVNULL,
    ) as client:
        wait_for(lambda: any(moment(event) for event in ground.cli.events()), "the moment of death")
        client.kill()
    return ground.broker.ledger.runs()[-1].id


def waits(event: Event) -> bool:
    return event.kind is Kind.IDLE and event.tag is not None


def test_a_killed_notebook_leaves_a_machine_that_ends_itself_soon_after_the_idle_limit(ground: Ground) -> None:
    """Even where this computer is gone altogether, its watchdog included: that is the dead-man switch's."""
    run_id = killed(ground, waits, 0.1)
    wait_for(lambda: ground.cli.sandbox.truth() == [], "the machine's own end", seconds=180)
    ground.broker.reap()
    run = ground.broker.ledger.run(run_id)
    assert run.outcome == "abandoned" and not run.open_rentals
    assert ground.broker.receipt(run_id).idle > Usd(0)


def test_the_watchdog_ends_a_dead_sessions_idle_machine_right_away(ground: Ground) -> None:
    """It waits for no idle limit: nobody will come with a job."""
    run_id = killed(ground, waits, 10)
    assert len(ground.cli.sandbox.truth()) == 1 and ground.broker.abandoned() == (run_id,)
    ground.broker.tend(run_id)
    assert ground.cli.sandbox.truth() == []


def test_the_watchdog_brings_home_what_a_dead_session_was_training(ground: Ground, stub: StubEngine) -> None:
    """The ledger knows of each job where its files belong."""
    stub.order(Orders(step_s=0.5))
    run_id = killed(ground, lambda event: event.kind is Kind.PROGRESS, 10)
    stub.order(Orders())
    ground.broker.tend(run_id)
    assert (ground.cli.folder / "output" / "swatch.safetensors").is_file()
    assert ground.cli.sandbox.truth() == []
    run = ground.broker.ledger.run(run_id)
    assert [one.final for one in run.artefacts] == [True]
