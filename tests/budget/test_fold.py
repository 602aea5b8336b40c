"""The fold never raises, and never lets a machine that may bill fall off the list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.budget.world import OFFER, PRICE

from gpurent.budget.events import Event, Kind, decode, encode
from gpurent.budget.state import RentalState, Run, fold
from gpurent.model import Charges
from gpurent.money import Usd

TAG = "gpurent-r-1"
DATA: Mapping[Kind, Mapping[str, object]] = {
    Kind.RUN_OPENED: {"name": "cat", "budget_micros": 10, "output_dir": Path("out"),
                      "client": {"pid": 1, "start": 1.0, "host": "h"}},
    Kind.INTENT: {"provider": "cloud", "offer": OFFER, "price": PRICE, "disk_gb": 20, "hourly_micros": 5,
                  "reserved_micros": 0, "soft_deadline": 1.0, "hard_deadline": 2.0},
    Kind.CREATED: {"ref": "i-1"},
    Kind.ADOPTED: {"ref": "i-1"},
    Kind.JOB_STARTED: {"job_id": "j"},
    Kind.PROGRESS: {"step": 1, "total": 2, "bytes_in": 10},
    Kind.CHECKPOINT_HOME: {"path": "a.safetensors", "size": 3, "sha256": "0"},
    Kind.REPLANNED: {"job_id": "j", "steps": 1, "epochs": 1},
    Kind.JOB_DONE: {"job_id": "j"},
    Kind.JOB_FAILED: {"job_id": "j"},
    Kind.CHARGED: {"charges": Charges(Usd(5))},
    Kind.RUN_CLOSED: {"outcome": "done"},
    Kind.JOB_CLAIMED: {"key": "k"},
    Kind.JOB_RELEASED: {"key": "k"},
    Kind.JOB_ADDED: {"name": "cat", "plan": {"number": 1}},
    Kind.IDLE: {"until": 200.0},
}  # fmt: skip
OF_RUN = {
    Kind.RUN_OPENED, Kind.RUN_CLOSED, Kind.JOB_CLAIMED, Kind.JOB_RELEASED, Kind.JOB_ADDED, Kind.STOP_REQUESTED,
    Kind.NOTE,
}  # fmt: skip
STORY = (
    Kind.RUN_OPENED, Kind.INTENT, Kind.CREATED, Kind.REACHABLE, Kind.PREPARED, Kind.JOB_STARTED, Kind.PROGRESS,
    Kind.CHECKPOINT_HOME, Kind.STOP_REQUESTED, Kind.JOB_DONE, Kind.DESTROY_SENT, Kind.DESTROY_FAILED,
    Kind.DESTROY_ACCEPTED, Kind.SEEN_ABSENT, Kind.SEEN_ABSENT, Kind.SEEN_ABSENT, Kind.GONE,
    Kind.CHARGED, Kind.RUN_CLOSED, Kind.NOTE,
)  # fmt: skip
LOST = (Kind.RUN_OPENED, Kind.INTENT, Kind.CREATE_UNCLEAR, Kind.SEEN_ABSENT, Kind.ADOPTED, *STORY[3:])
REFUSED = (Kind.RUN_OPENED, Kind.INTENT, Kind.CREATE_REFUSED, Kind.RUN_CLOSED)


def told(*kinds: Kind) -> list[Event]:
    """Lines as the ledger would give them back."""
    return [
        Event(n, 100.0 + n, "r", None if kind in OF_RUN else TAG, kind, decode(encode(kind, DATA.get(kind, {}))))
        for n, kind in enumerate(kinds)
    ]


def after(*kinds: Kind) -> Run:
    (run,) = fold(told(*kinds))
    return run


@pytest.mark.parametrize("story", [STORY, LOST, REFUSED])
def test_every_prefix_of_a_legal_story_folds_without_anomaly(story: tuple[Kind, ...]) -> None:
    """A crash after any line leaves a ledger that reads cleanly, and the rental is open until its last act."""
    for length in range(1, len(story) + 1):
        run = after(*story[:length])
        assert not run.anomalies
        ended = {Kind.GONE, Kind.CREATE_REFUSED} & set(story[:length])
        assert bool(run.open_rentals) == (length >= 2 and not ended)


@given(st.lists(st.sampled_from(list(Kind)), max_size=25))
def test_no_order_of_lines_raises(kinds: list[Kind]) -> None:
    """Whatever the order, every line is folded or becomes an anomaly."""
    for run in fold(told(*kinds)):
        assert run.id == "r"


@given(st.lists(st.sampled_from([kind for kind in Kind if kind is not Kind.GONE]), max_size=20))
def test_only_a_confirmation_ends_a_machine_that_was_created(kinds: list[Kind]) -> None:
    """Once created, no line but GONE takes a rental off the list of what may bill, and its ref is kept."""
    run = after(Kind.RUN_OPENED, Kind.INTENT, Kind.CREATED, *kinds)
    assert [rental.ref for rental in run.open_rentals] == ["i-1"]


@pytest.mark.parametrize("answer", [Kind.DESTROY_ACCEPTED, Kind.DESTROY_FAILED])
@pytest.mark.parametrize("length", [3, 4, 6])
def test_an_answer_to_an_order_says_that_it_was_sent(length: int, answer: Kind) -> None:
    """The line that announced it may be lost to a full disk: the rental is being destroyed all the same."""
    run = after(*STORY[:length], answer)
    assert run.rentals[0].state is RentalState.DESTROYING and not run.anomalies


@pytest.mark.parametrize("surprise", [Kind.ADOPTED, Kind.CREATED, Kind.CREATE_UNCLEAR])
@pytest.mark.parametrize("end", [Kind.GONE, Kind.CREATE_REFUSED])
def test_a_rental_seen_or_made_after_its_end_is_open_again(end: Kind, surprise: Kind) -> None:
    """The dearest surprise of all is remembered and marked: a listing shows it, or a client slept before its create."""
    run = after(Kind.RUN_OPENED, Kind.INTENT, end, surprise)
    assert run.anomalies
    assert [rental.gone_at for rental in run.open_rentals] == [None]


def test_reattaching_does_not_forget_the_training() -> None:
    """A second connection to a training host leaves it training: what is on it is worth collecting."""
    run = after(*STORY[:6], Kind.REACHABLE)
    assert run.rentals[0].state is RentalState.TRAINING


def test_jobs_of_a_rental_follow_one_another() -> None:
    """What is over stays over when the next one starts, and only the last one is worth collecting."""
    lines = told(*STORY[:6], Kind.JOB_FAILED, Kind.JOB_STARTED, Kind.PROGRESS)
    lines[-2] = replace(lines[-2], data={"job_id": "k", "name": "dog", "key": "d1"})
    (rental,) = fold(lines)[0].rentals
    assert [(one.id, one.name, one.key, one.over_at, one.failed) for one in rental.jobs] == [
        ("j", "", "", 106.0, True), ("k", "dog", "d1", None, False)
    ]  # fmt: skip
    assert (rental.job_id, rental.job_over) == ("k", False)


def test_absences_before_an_accepted_destroy_do_not_count() -> None:
    """Evidence from before the order says nothing about what the order did."""
    story = (*STORY[:3], Kind.SEEN_ABSENT, Kind.SEEN_ABSENT, Kind.DESTROY_SENT, Kind.DESTROY_ACCEPTED)
    assert after(*story).rentals[0].absent_count == 0


def test_traffic_is_a_running_total() -> None:
    """A report that comes twice, or late, does not add up twice."""
    lines = told(*STORY[:6], Kind.PROGRESS, Kind.PROGRESS, Kind.PROGRESS)
    lines[-1] = replace(lines[-1], data={**lines[-1].data, "bytes_in": 4})
    assert fold(lines)[0].rentals[0].bytes_in == 10


def test_a_line_that_cannot_be_read_hides_no_other() -> None:
    """One bad line is an anomaly; the rental before it stays on the list."""
    lines = told(*STORY[:3])
    bad = Event(99, 200.0, "r", TAG, Kind.CHARGED, json.loads('{"charges": 3}'))
    (run,) = fold([*lines, bad])
    assert len(run.anomalies) == 1
    assert len(run.open_rentals) == 1


def test_a_rental_of_a_run_without_opening_counts() -> None:
    """A lost first line hides no machine."""
    run = after(Kind.INTENT, Kind.CREATED)
    assert run.anomalies
    assert len(run.open_rentals) == 1


def test_a_dearer_machine_is_counted_at_its_own_rate() -> None:
    """What the provider says it costs now replaces a lower offer, and never a higher one."""
    lines = told(*STORY[:3])
    for said, counted in ((9, 9), (1, 5)):
        lines[-1] = replace(lines[-1], data={"ref": "i-1", "hourly_micros": said})
        assert fold(lines)[0].rentals[0].hourly == Usd(counted)
