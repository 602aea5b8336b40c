"""Several machines, several runs and several computers share the jobs of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from tests.batch.conftest import QUICK, Ground
from tests.budget import postgres
from tests.stub.control import StubEngine
from tests.stub.engine import Orders
from tests.thorough import THE_REST

from gpurent import Broker, Job, Usd
from gpurent.budget.events import Kind
from gpurent.clock import SystemClock
from gpurent.errors import NoOffer, UsageError
from gpurent.jobs.batch import Batch
from gpurent.jobs.options import BatchOptions

ONE = Usd.parse("1")


def started(broker: Broker) -> Counter[str]:
    return Counter(str(one.data["name"]) for one in broker.ledger.events() if one.kind is Kind.JOB_STARTED)


def test_two_machines_share_four_jobs_and_one_budget(ground: Ground, stub: StubEngine) -> None:
    """Each job is trained once, on one of two machines that lived at the same time."""
    stub.order(Orders(start_s=1.0))
    jobs = ground.jobs("ant", "bee", "cat", "dog")
    found = ground.broker.batch(jobs, budget=ONE, batch=BatchOptions(rentals=2), tell=ground.tell)
    assert found.complete and [one.state for one in found.jobs] == ["done"] * 4
    run = ground.broker.ledger.run(found.run_id or "")
    first, second = run.rentals
    assert {job.name for one in (first, second) for job in one.jobs} == {"ant", "bee", "cat", "dog"}
    assert set(started(ground.broker).values()) == {1} and first.jobs and second.jobs
    assert second.intent_at < (first.gone_at or 0.0) and first.intent_at < (second.gone_at or 0.0)
    assert found.receipt is not None and found.receipt.total <= ONE
    assert Usd.total([one.setup + one.training for one in found.jobs]) == found.receipt.total
    assert ground.cli.sandbox.truth() == []


def test_more_machines_than_the_budget_pays_for_are_refused_and_auto_takes_as_many_as_it_pays_for(
    ground: Ground,
) -> None:
    """Nothing is rented for a refusal; a number that is none is named."""
    jobs = [ground.job(name, "max_train_steps = 4000") for name in ("ant", "bee", "cat", "dog")]
    choices = ground.broker.batch_quote(jobs, budget=ONE, batch=BatchOptions(rentals="auto")).choices
    assert [len(one.rows) for one in choices] == [1, 2, 3, 4]
    assert [one.seconds for one in choices] == sorted((one.seconds for one in choices), reverse=True)
    budget = choices[1].asks
    with pytest.raises(NoOffer, match=r"may not pay for \d machines") as refused:
        ground.broker.batch_quote(jobs, budget=budget, batch=BatchOptions(rentals=4))
    assert "--rentals" in refused.value.hint
    found = ground.broker.batch_quote(jobs, budget=budget, batch=BatchOptions(rentals="auto"))
    assert found.fleet is not None and found.fleet.asks <= budget
    with pytest.raises(UsageError, match="0 is not a number of machines"):
        ground.broker.batch_quote(jobs, budget=budget, batch=BatchOptions(rentals=0))
    assert ground.broker.ledger.runs() == ()


def batch(ground: Ground, home: str, jobs: Sequence[Job]) -> Batch:
    """The same four jobs as everybody's, by a process of its own, so to say."""
    with Broker(home=ground.cli.folder / home, patience=QUICK, clock=SystemClock()) as broker:
        return broker.batch(jobs, budget=ONE)


@pytest.mark.parametrize(
    "homes",
    [
        pytest.param(("state", "state"), id="one computer"),
        pytest.param(("one", "two"), id="two computers", marks=THE_REST),
    ],
)
def test_two_batches_at_once_train_no_job_twice(
    ground: Ground, stub: StubEngine, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
    homes: tuple[str, str],
) -> None:  # fmt: skip
    """On one computer, or on two with one PostgreSQL ledger: what one is on, or has done, the other leaves to it."""
    if homes[0] != homes[1]:
        server: postgres.Server = request.getfixturevalue("server")
        monkeypatch.setenv("GPURENT_LEDGER_URL", server.fresh())
    stub.order(Orders(start_s=0.5))
    jobs = ground.jobs("ant", "bee", "cat", "dog")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda home: batch(ground, home, jobs), homes))
    with closing(Broker(home=ground.cli.folder / homes[0], patience=QUICK)) as broker:
        assert started(broker) == Counter({"ant": 1, "bee": 1, "cat": 1, "dog": 1})
    states = [{one.name: one.state for one in made.jobs} for made in both]
    for name in ("ant", "bee", "cat", "dog"):
        assert sorted(one[name] for one in states) in (["done", "had"], ["done", "elsewhere"])
    assert ground.cli.sandbox.truth() == []
