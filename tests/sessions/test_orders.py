"""What a shell and the process of a session say to each other through files."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from gpurent.budget.errors import BudgetError
from gpurent.errors import GpurentError, HostUnfit, JobFailed, UsageError
from gpurent.jobs import orders
from gpurent.jobs.orders import Answer, Order, Reply
from gpurent.jobs.progress import (
    Collected,
    Gone,
    JobBegun,
    JobOver,
    Notice,
    Progress,
    Rented,
    Spending,
    Stage,
    StageMoved,
    StageStarted,
    Trained,
)
from gpurent.model import Offer, Price
from gpurent.money import Usd

OFFER = Offer("cloud", "1", "RTX 3090", 24_576, Price(Usd(360_000)), capability=(8, 6), region="SE")
EVENTS: tuple[Progress, ...] = (
    Spending(Usd(5), Usd(10), 1.5, 2.5),
    StageStarted(Stage.UPLOAD, "3 files", 7),
    StageMoved(Stage.UPLOAD, 3, None),
    Rented(OFFER, "i-1", "gpurent-r-1", "r", ("this client",)),
    Trained(1, 2, 1, 1, None, 0.5, 1.0, 3.0, 4.0),
    Collected(Path("a.safetensors"), 3, "0", True),
    JobBegun("cat", 1, 1),
    JobOver("cat", "done"),
    Notice("hello", warning=True),
    Gone("i-1", "gpurent-r-1"),
)


def test_every_event_arrives_as_it_was_said(tmp_path: Path) -> None:
    """In order, each once, and none is left out of this test."""
    assert {type(one) for one in EVENTS} == set(get_args(Progress))
    reply = Reply(tmp_path, orders.hand_in(tmp_path, Order("c.toml", "/")))
    answer = Answer(reply)
    assert answer.events() == []
    for event in EVENTS[:4]:
        reply.say(event)
    assert answer.events() == list(EVENTS[:4])
    for event in EVENTS[4:]:
        reply.say(event)
    reply.done({"files": []})
    assert answer.events() == list(EVENTS[4:]) and answer.result == {"files": []}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (JobFailed("no", code="nan", hint="lower it"), JobFailed),
        (BudgetError("too little", hint="more"), BudgetError),
        (HostUnfit("slow_line", "slow"), GpurentError),
    ],
)
def test_an_error_arrives_with_its_words(tmp_path: Path, error: GpurentError, kind: type[GpurentError]) -> None:
    """And as its own kind, so that the exit code of the shell is the one of `train`."""
    reply = Reply(tmp_path, orders.hand_in(tmp_path, Order("c.toml", "/")))
    reply.failed(error)
    with pytest.raises(kind) as raised:
        Answer(reply).events()
    assert str(raised.value) == str(error) and raised.value.hint == error.hint
    assert getattr(raised.value, "code", "") == getattr(error, "code", "")


def test_an_order_is_taken_once_and_one_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A torn file comes from nobody: orders appear whole."""
    order = Order("/c.toml", "/", name="cat")
    number = orders.hand_in(tmp_path, order)
    assert orders.take(tmp_path) == [(number, order)] and orders.take(tmp_path) == []
    (orders.folder(tmp_path) / "x.json").write_text("{", encoding="utf-8")
    ((_, refused),) = orders.take(tmp_path)
    assert isinstance(refused, UsageError) and "cannot be read" in str(refused)
