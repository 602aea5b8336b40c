"""Adding up only what is new gives exactly what adding up everything gives."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.budget.test_fold import DATA, OF_RUN
from tests.budget.world import Place, intend, opened

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Event, Kind, encode
from gpurent.budget.folding import MANY, Folder, Kept, Row, event
from gpurent.budget.ledger import Ledger
from gpurent.budget.state import FROM, Run, advance
from gpurent.clock import ManualClock, SystemClock
from gpurent.money import Usd

counts = st.integers(-1, 10**12) | st.integers(10**19, 10**25)
values = st.none() | st.booleans() | counts | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=1)
fields = st.sampled_from(
    ["step", "total", "epoch", "epochs", "bytes_in", "bytes_out", "loss", "avg_loss", "it_s", "job_id", "reason", "odd"]
)
plain = st.fixed_dictionaries(
    {"step": st.integers(0, 99), "total": st.integers(0, 99)},
    optional={
        "bytes_in": st.integers(0, 99), "bytes_out": st.integers(0, 99), "avg_loss": st.floats(allow_nan=False),
        "it_s": st.floats(allow_nan=False, allow_infinity=False), "job_id": st.text(max_size=3),
    },
)  # fmt: skip
reports = plain | st.builds(lambda one, key, value: {**one, key: value}, plain, fields, values)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """Any lines of two runs with two rentals each, most of them reports of progress, right or wrong."""
    found: list[Row] = []
    for seq in range(1, draw(st.integers(1, 30))):
        run = draw(st.sampled_from("rs"))
        tag = draw(st.sampled_from([f"gpurent-{run}-1", f"gpurent-{run}-1", f"gpurent-{run}-2", "gpurent-x-1"]))
        kind = draw(st.sampled_from([*Kind, *[Kind.PROGRESS] * 30, *[Kind.INTENT] * 5]))
        data = json.dumps(draw(reports)) if kind is Kind.PROGRESS else encode(kind, DATA.get(kind, {}))
        at = draw(st.floats(1, 100))
        found.append((seq, at, run, None if kind in OF_RUN else tag, kind.value, data))
    start: list[Row] = []
    for run in "rs":
        if draw(st.booleans()):
            start.append((0, 1.0, run, None, "run_opened", encode(Kind.RUN_OPENED, DATA[Kind.RUN_OPENED])))
            start.append((0, 1.5, run, f"gpurent-{run}-1", "intent", encode(Kind.INTENT, DATA[Kind.INTENT])))
    return [(seq, *row[1:]) for seq, row in enumerate([*start, *found], start=1)]


def plainly(lines: list[Row]) -> tuple[Run, ...]:
    """Line after line, all of them."""

    def step(runs: dict[str, Run], one: Event) -> dict[str, Run]:
        return {**runs, one.run_id: advance(runs.get(one.run_id), one)}

    start: dict[str, Run] = {}
    return tuple(reduce(step, map(event, lines), start).values())


def same(one: object, other: object) -> bool:
    """Equal; a number that is none is like another."""
    return repr(one) == repr(other)


@given(lines=rows())
def test_outlines_tell_which_runs_are_open(lines: list[Row]) -> None:
    """What nearly all lines of a ledger say of a machine's work matters to no question of whether it still runs."""

    def is_open(run: Run) -> bool:
        return run.outcome is None or bool(run.open_rentals)

    some = [row for row in lines if row[4] not in MANY]
    seen = {row[2] for row in some}
    assert {run.id for run in plainly(some) if is_open(run)} == {
        run.id for run in plainly(lines) if is_open(run) and run.id in seen
    }


@given(lines=rows(), reads=st.lists(st.booleans(), min_size=60, max_size=60))
def test_a_folder_that_is_read_at_any_time_says_what_the_plain_fold_says(lines: list[Row], reads: list[bool]) -> None:
    """Anomalies and their order included, whatever the reports hold and whenever somebody reads."""
    folder = Folder()
    for number, row in enumerate(lines):
        folder.add(row)
        if reads[number]:
            assert same(folder.runs(), plainly(lines[: number + 1]))
    assert same(folder.runs(), plainly(lines))
    for run in plainly(lines):
        assert same(folder.run(run.id), run)


@given(lines=rows(), parts=st.lists(st.integers(1, 9), max_size=20))
def test_reading_only_what_is_new_says_what_reading_everything_says(lines: list[Row], parts: list[int]) -> None:
    """Of all runs and of each alone, in parts of any size."""
    kept, there = Kept(), 0
    for part in [*parts, len(lines)]:
        there = min(len(lines), there + part)
        shown = lines[:there]
        assert same(kept.runs(lambda since: [row for row in shown if row[0] >= since]), plainly(shown))  # noqa: B023
        for run in plainly(shown):
            own = [row for row in shown if row[2] == run.id]
            assert same(kept.run(run.id, lambda since: [row for row in own if row[0] >= since]), run)  # noqa: B023
    assert kept.run("nobody", lambda _since: []) is None


@given(before=rows(), after=rows())
def test_a_ledger_that_was_replaced_is_read_again(before: list[Row], after: list[Row]) -> None:
    """A backup was restored while a process ran: nothing of what was added up before is left."""
    kept = Kept()
    kept.runs(lambda since: [row for row in before if row[0] >= since])
    others = [(seq, at + 1000.0, run, tag, kind, data) for seq, at, run, tag, kind, data in after]
    assert same(kept.runs(lambda since: [row for row in others if row[0] >= since]), plainly(others))


def test_reports_are_taken_in_every_state_that_is_not_over() -> None:
    """What a series of reports relies on: no state but an end makes a report an anomaly."""
    assert Kind.PROGRESS not in FROM


def test_a_line_that_cannot_be_read_is_an_error_each_time(place: Place) -> None:
    """And what was before it is not added twice."""
    ledger, run_id = opened(place, ManualClock())
    place.execute(f"INSERT INTO events (at, run_id, kind, data) VALUES (1.5, '{run_id}', 'from_the_future', '{{}}')")
    for _ in range(3):
        for read in (ledger.runs, lambda: ledger.run(run_id)):
            with pytest.raises(LedgerError, match="from_the_future"):
                read()


def test_two_processes_see_each_others_lines(place: Place) -> None:
    """Whatever one has read before, the other's new lines are read next; and only those."""
    clock = ManualClock()
    ours, run_id = opened(place, clock)
    theirs = place.open(clock)
    tag = intend(theirs, run_id, clock.now())
    assert ours.run(run_id) == theirs.run(run_id) and ours.runs() == theirs.runs()
    for step in range(5):
        theirs.append(run_id, Kind.PROGRESS, tag=tag, step=step, total=9, bytes_in=step)
        run = ours.run(run_id)
        assert run == theirs.run(run_id) and run.last_progress is not None and run.last_progress.step == step
    ours.append(run_id, Kind.JOB_DONE, tag=tag, job_id="j")
    assert theirs.runs() == ours.runs() == (ours.run(run_id),)


def test_threads_that_read_and_write_at_once_count_every_line_once(tmp_path: Path) -> None:
    """Bytes are a running total, anomalies are not: a line that is added twice would show."""
    ledger = Ledger.open(tmp_path / "ledger.db", SystemClock())
    run_id = ledger.open_run("cat", Usd(1), output_dir=tmp_path, config={})
    together = threading.Barrier(4)

    def act(number: int) -> Any:
        together.wait()
        for _ in range(20):
            if number == 0:
                ledger.append(run_id, Kind.RUN_CLOSED, outcome="done")
                ledger.append(run_id, Kind.NOTE, message="x")
            ledger.runs()
            ledger.run(run_id)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(act, range(4)))
    lines = [(one.seq, one.at, one.run_id, one.tag, one.kind.value, json.dumps(one.data)) for one in ledger.events()]
    assert ledger.runs() == plainly(lines)
    ledger.close()
