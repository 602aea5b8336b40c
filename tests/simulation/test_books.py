"""The ledger in memory says what the one in a database says, whatever is written to it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.budget.test_fold import DATA
from tests.simulation.books import Books, MemoryLedger

from gpurent.budget.errors import BudgetError, LedgerError
from gpurent.budget.events import OF_A_RUN, OF_EITHER, Client, Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.state import Run
from gpurent.clock import ManualClock
from gpurent.money import Usd

NOBODY = Client(pid=0, start=0.0, host="")
KINDS = st.sampled_from([kind for kind in Kind if kind is not Kind.RUN_OPENED])
LINES = st.lists(st.tuples(KINDS, st.integers(0, 2), st.integers(0, 2)), max_size=30)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, budgets=st.lists(st.integers(1, 900), min_size=1, max_size=3))
def test_both_take_and_refuse_the_same_lines_and_add_them_up_alike(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[Kind, int, int]], budgets: list[int]
) -> None:
    """Runs, limits, tags that are used twice or not at all, lines of closed runs: no difference."""
    path = tmp_path_factory.mktemp("books") / "ledger.db"
    told = [
        _play(Ledger.open(path, ManualClock(), random.Random(1)), lines, budgets),
        _play(MemoryLedger(Books(), ManualClock(), random.Random(1)), lines, budgets),
    ]
    assert told[0] == told[1]


def _play(ledger: Ledger, lines: list[tuple[Kind, int, int]], budgets: list[int]) -> object:
    """What was refused, and what the ledger holds afterwards."""
    refused: list[str] = []
    runs: list[str] = []
    for budget in budgets:
        try:
            runs.append(ledger.open_run("cat", Usd(budget), output_dir=Path("out"), config={}, per_day=Usd(1500)))
        except BudgetError as error:
            refused.append(str(error))
    for number, (kind, run, tag) in enumerate(lines):
        run_id = runs[run] if run < len(runs) else "unknown"
        of_run = kind in OF_A_RUN or (kind in OF_EITHER and number % 2)
        try:
            ledger.append(run_id, kind, tag=None if of_run else f"gpurent-{tag}", **DATA.get(kind, {}))
        except LedgerError as error:
            refused.append(f"{number}: {type(error).__name__}")
    found = [_timeless(run) for run in (*ledger.runs(), *ledger.open_runs(), *(ledger.run(run) for run in runs))]
    events = [(one.seq, one.at, one.run_id, one.tag, one.kind, {**one.data, "client": ""}) for one in ledger.events()]
    latest = ledger.latest()
    ledger.close()
    return refused, found, events, latest


def _timeless(run: Run) -> Run:
    """Without the moment at which this computer was started, which is computed again each time."""
    return replace(run, client=NOBODY)
