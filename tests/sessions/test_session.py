"""Job after job on one machine: what waits, what is refused, what ends it, and what the waiting costs."""

from __future__ import annotations

import pytest
from tests.batch.conftest import Ground

from gpurent import Usd
from gpurent.errors import UsageError
from gpurent.jobs.progress import Notice, Stage, StageStarted

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
