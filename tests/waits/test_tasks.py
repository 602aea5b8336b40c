"""Waiting that ends: for a task, for a moment, and for several at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent.clock import ManualClock, SystemClock, side_by_side
from gpurent.tasks import Abandoned, Beside, Overdue, mind, minding, parallel

FOREVER = 300.0
SOON_S = 20.0
"""Long for a busy computer, short beside ``FOREVER``."""


class Left(Exception):
    """Somebody has left."""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging tasks wait for; none outlives its test."""
    gate = threading.Event()
    yield gate
    gate.set()


def raise_left() -> None:
    raise Left


def test_a_result_is_what_came_of_it() -> None:
    """A value, or the very exception."""
    assert Beside(lambda: 7).result(SOON_S) == 7
    with pytest.raises(Left):
        Beside(raise_left).result(SOON_S)


def test_what_hangs_is_left_behind(gate: threading.Event) -> None:
    """In time, and what it waits on is closed under it."""
    closed: list[str] = []
    began = time.monotonic()
    with pytest.raises(Overdue):
        Beside(lambda: gate.wait(FOREVER)).result(0.2, lambda: closed.append("closed"))
    assert time.monotonic() - began < SOON_S and closed == ["closed"]


def test_what_is_minded_ends_a_wait(gate: threading.Event) -> None:
    """Of a task, and of the clock."""
    clock = SystemClock()
    with minding(raise_left):
        with pytest.raises(Left):
            Beside(lambda: gate.wait(FOREVER)).result(FOREVER)
        with pytest.raises(Left):
            clock.sleep(FOREVER)


def test_what_minds_waits_itself_without_minding_itself() -> None:
    """A sign of life that is sent while a transfer is waited for waits as well, and minds only what is around it."""
    seen: list[str] = []

    def inner() -> None:
        seen.append("inner")
        Beside(lambda: time.sleep(0.25)).result(SOON_S)

    with minding(lambda: seen.append("outer")), minding(inner):
        mind()
    assert seen.count("inner") == 1 and seen.count("outer") >= 2


def test_what_is_minded_in_one_thread_is_not_in_another() -> None:
    """A task has nothing to do with what its waiter minds."""
    with minding(raise_left):
        task = Beside(mind)
        task._ended.wait(SOON_S)
    task.result(SOON_S)


def test_a_task_that_nobody_waits_for_ends_at_its_next_wait() -> None:
    """So that what it would have asked for next is not asked for."""
    ended: list[BaseException] = []

    def long() -> None:
        try:
            SystemClock().sleep(FOREVER)
        except BaseException as error:
            ended.append(error)
            raise

    task = Beside(long)
    with pytest.raises(Overdue):
        task.result(0.1)
    assert task._ended.wait(SOON_S)
    assert [type(one) for one in ended] == [Abandoned]


def test_several_are_waited_for_together(gate: threading.Event) -> None:
    """One that hangs delays no other, and has a stand-in."""
    acts = {"well": lambda: "here", "hangs": lambda: str(gate.wait(FOREVER))}
    assert side_by_side(SystemClock(), acts, 0.5, lambda key, _error: f"{key} is late") == {
        "well": "here", "hangs": "hangs is late"
    }  # fmt: skip


def test_several_begin_at_once() -> None:
    """Each of them waits for the other."""
    meet = threading.Barrier(2, timeout=SOON_S)
    found = side_by_side(SystemClock(), {1: meet.wait, 2: meet.wait}, SOON_S, lambda _key, _error: -1)
    assert sorted(found.values()) == [0, 1]


def test_a_sleep_ends_when_it_is_woken() -> None:
    """From another thread or a signal handler, before it has begun or after."""
    clock = SystemClock()
    clock.sleep(0)
    clock.wake()
    clock.sleep(FOREVER)
    threading.Timer(0.2, clock.wake).start()
    clock.sleep(FOREVER)


def test_time_that_does_not_pass_by_itself_needs_no_thread() -> None:
    """The waiter carries its task out."""
    clock = ManualClock()
    assert clock.begin(threading.current_thread).result(1.0) is threading.current_thread()


@given(st.lists(st.integers(0, 9), max_size=60))
def test_many_are_done_in_parallel_and_come_in_order(numbers: list[int]) -> None:
    """As if each had been done after the other; the first that fails is the first that is seen to."""

    def act(number: int) -> int:
        if number == 9:
            raise Left
        return number * 2

    found: list[int] = []
    try:
        found.extend(parallel(act, numbers))
    except Left:
        assert 9 in numbers
    assert found == [number * 2 for number in numbers][: numbers.index(9) if 9 in numbers else None]


def test_whoever_stops_listening_waits_for_nobody(gate: threading.Event) -> None:
    """A check of ten thousand pictures that is interrupted ends at the picture that it has come to."""
    done: list[int] = []

    def act(number: int) -> int:
        if number > 0:
            gate.wait(FOREVER)
        done.append(number)
        return number

    for number in parallel(act, range(10_000)):
        assert number == 0
        break
    assert done == [0]
    with minding(raise_left), pytest.raises(Left):
        list(parallel(act, range(1, 10_000)))
    gate.set()
    assert len(done) < 100
