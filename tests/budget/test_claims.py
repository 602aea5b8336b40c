"""Jobs are claimed in the ledger: of all runs, on all computers, one is to train a job."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from tests.budget.world import Place

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.state import Run
from gpurent.clock import SystemClock
from gpurent.money import Usd


@pytest.fixture
def ledger(place: Place) -> Iterator[Ledger]:
    with closing(Ledger.open_url(place.url, SystemClock())) as opened:
        yield opened


def opened(ledger: Ledger) -> str:
    return ledger.open_run("batch", Usd(1), output_dir=Path(), config={})


def lives(_run: Run) -> bool:
    return False


def dead(_run: Run) -> bool:
    return True


def test_a_job_has_one_run_until_it_is_released_or_its_run_ends_or_its_client_is_given_up(ledger: Ledger) -> None:
    """Claiming again changes nothing; a closed run claims nothing."""
    one, two, three = (opened(ledger) for _ in range(3))
    assert ledger.claim(one, "k", "ant", lives) is None and ledger.claim(one, "k", "ant", lives) is None
    assert sum(event.kind is Kind.JOB_CLAIMED for event in ledger.events()) == 1
    assert ledger.claim(two, "k", "ant", lives) == one
    assert ledger.claim(two, "other", "bee", lives) is None
    ledger.append(one, Kind.JOB_RELEASED, key="k", name="ant")
    assert ledger.claim(two, "k", "ant", lives) is None
    ledger.append(two, Kind.RUN_CLOSED, outcome="done")
    assert ledger.claim(three, "k", "ant", lives) is None
    assert ledger.claim(one, "k", "ant", lives) == three
    assert ledger.claim(one, "k", "ant", dead) is None
    assert ledger.claim(three, "k", "ant", lives) == one  # it slept, and was held for dead
    with pytest.raises(LedgerError, match="was closed before it began ant"):
        ledger.claim(two, "k", "ant", lives)


def test_of_many_that_claim_at_once_one_gets_it(place: Place) -> None:
    """Each with a connection of its own, as processes have."""
    with closing(Ledger.open_url(place.url, SystemClock())) as ledger:
        runs = [opened(ledger) for _ in range(6)]

    def claim(run_id: str) -> list[str | None]:
        with closing(Ledger.open_url(place.url, SystemClock())) as own:
            return [own.claim(run_id, f"k{number}", "ant", lives) for number in range(4)]

    with ThreadPoolExecutor(len(runs)) as pool:
        found = list(pool.map(claim, runs))
    for number in range(4):
        winners = {run for run, answers in zip(runs, found, strict=True) if answers[number] is None}
        assert len(winners) == 1
        assert {answers[number] for answers in found} == {None, *winners}
