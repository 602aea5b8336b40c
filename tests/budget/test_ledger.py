"""The ledger keeps every acknowledged line, whatever happens to its writers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError
from tests.budget.racer import race, reserve
from tests.budget.world import OFFER, PRICE, Place, intend, opened

from gpurent.budget.client import ClientLock, is_alive
from gpurent.budget.errors import BudgetError, LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.state import RentalState
from gpurent.clock import ManualClock, SystemClock
from gpurent.errors import UsageError
from gpurent.money import Usd

WRITER = """
import sys
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
ledger = Ledger.open_url(sys.argv[1], SystemClock())
while True:
    event = ledger.append(sys.argv[2], Kind.NOTE, message="x" * 500)
    print(event.seq, flush=True)
"""
HOLDER = """
import sys, time
from pathlib import Path
from gpurent.budget.client import ClientLock
with ClientLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_loses_no_acknowledged_line(place: Place) -> None:
    """After kill -9, again and again, every line whose append returned is there and the ledger is writable."""
    ledger, run_id = opened(place, ManualClock())
    acknowledged: set[int] = set()
    for lines_before_death in (1, 2, 5, 9, 14, 30):
        writer = start(WRITER, place.url, run_id)
        assert writer.stdout is not None
        for _ in range(lines_before_death):
            acknowledged.add(int(writer.stdout.readline()))
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged |= {int(line) for line in writer.stdout if line.endswith("\n")}
        writer.stdout.close()
        writer.wait()
        assert acknowledged <= {event.seq for event in ledger.events()}
        ledger.append(run_id, Kind.NOTE, message="still writable")


@pytest.mark.parametrize("limit", ["per_day", "per_month"])
def test_racing_processes_never_reserve_more_than_the_limit(place: Place, limit: str) -> None:
    """Of twenty processes that open the same new ledger at once, exactly those that fit get a run."""
    said = race(reserve, place.url, {limit: Usd.parse(7)})
    won = [run_id for run_id in said if run_id]
    assert len(won) == len(set(won)) == 7
    ledger = place.open(SystemClock())
    assert {run.id for run in ledger.runs()} == set(won)
    assert Usd.total([run.budget for run in ledger.runs()]) == Usd.parse(7)


def test_whoever_opens_a_new_file_at_the_same_moment_gets_it(tmp_path: Path) -> None:
    """Eight at once, again and again: SQLite lets one of them change the journal, the others wait."""
    for number in range(40):
        together = threading.Barrier(8)

        def begin(path: Path, together: threading.Barrier) -> None:
            together.wait()
            Ledger.open(path, SystemClock()).close()

        with ThreadPoolExecutor(8) as pool:
            begun = [pool.submit(begin, tmp_path / f"{number}.db", together) for _ in range(8)]
        assert [one.result() for one in begun] == [None] * 8


def test_what_is_appended_reads_back_typed(place: Place) -> None:
    """Offers and prices survive the way through the file; a loss that is not a number becomes none."""
    clock = ManualClock()
    ledger, run_id = opened(place, clock)
    tag = intend(ledger, run_id, clock.now())
    ledger.append(run_id, Kind.CREATED, tag=tag, ref="i-1")
    ledger.append(run_id, Kind.PROGRESS, tag=tag, step=3, total=9, avg_loss=float("nan"), bytes_in=7)
    again = place.open(clock)
    run = again.latest_run()
    assert run is not None and run.id == run_id and not run.anomalies
    (rental,) = again.open_rentals()
    assert (rental.offer, rental.hourly, rental.ref, rental.bytes_in) == (OFFER, PRICE.hourly(20), "i-1", 7)
    assert run.last_progress is not None and run.last_progress.avg_loss is None


def test_lines_that_no_fold_could_place_are_refused(place: Place) -> None:
    """An unknown run or tag, a tag used twice, a missing or foreign key: nothing is written."""
    clock = ManualClock()
    ledger, run_id = opened(place, clock)
    tag = intend(ledger, run_id, clock.now())
    before = ledger.events()
    with pytest.raises(LedgerError, match="no run"):
        ledger.append("nobody", Kind.NOTE, message="x")
    with pytest.raises(LedgerError, match="no rental"):
        ledger.append(run_id, Kind.CREATED, tag="gpurent-other-1", ref="i-1")
    with pytest.raises(LedgerError, match="already used"):
        intend(ledger, run_id, clock.now())
    with pytest.raises(LedgerError, match="needs tag"):
        ledger.append(run_id, Kind.GONE)
    with pytest.raises(LedgerError, match="ref"):
        ledger.append(run_id, Kind.CREATED, tag=tag, reff="i-1")
    with pytest.raises(LedgerError, match="open_run"):
        ledger.append(run_id, Kind.RUN_OPENED, name="x", budget_micros=1, output_dir=place.folder)
    assert ledger.events() == before


def test_the_database_itself_refuses_to_forget(place: Place) -> None:
    """Lines can be neither changed nor removed, not even by another program."""
    ledger, _ = opened(place, ManualClock())
    before = ledger.events()
    for statement in ("DELETE FROM events", "UPDATE events SET at = 0"):
        with pytest.raises(DBAPIError, match="append-only"):
            place.execute(statement)
    assert ledger.events() == before


def test_the_database_itself_refuses_a_second_intent_of_one_tag(place: Place) -> None:
    """Two rentals under one tag could not be told apart, whatever wrote them; nor could two runs of one id."""
    clock = ManualClock()
    ledger, run_id = opened(place, clock)
    intend(ledger, run_id, clock.now())
    for kind in (Kind.INTENT, Kind.RUN_OPENED):
        copy = f"SELECT at, run_id, tag, kind, data FROM events WHERE kind = '{kind}'"
        with pytest.raises(IntegrityError):
            place.execute(f"INSERT INTO events (at, run_id, tag, kind, data) {copy}")


def test_a_closed_run_rents_nothing_more(place: Place) -> None:
    """Its reservation was given back: somebody else may have taken the money meanwhile."""
    clock = ManualClock()
    ledger, run_id = opened(place, clock)
    ledger.append(run_id, Kind.RUN_CLOSED, outcome="abandoned")
    with pytest.raises(LedgerError, match="was closed"):
        intend(ledger, run_id, clock.now())


def test_an_open_rental_keeps_its_run_in_the_limit(place: Place) -> None:
    """Closing a run frees nothing while a machine of it may still bill; confirmed gone, only its cost counts."""
    clock = ManualClock()
    ledger, run_id = opened(place, clock, "6")
    tag = intend(ledger, run_id, clock.now())
    ledger.append(run_id, Kind.CREATED, tag=tag, ref="i-1")
    ledger.append(run_id, Kind.RUN_CLOSED, outcome="in doubt")
    clock.advance(3600)
    with pytest.raises(BudgetError):
        ledger.open_run("two", Usd.parse(5), output_dir=place.folder, config={}, per_day=Usd.parse(10))
    ledger.append(run_id, Kind.GONE, tag=tag)
    assert ledger.open_run("two", Usd.parse(5), output_dir=place.folder, config={}, per_day=Usd.parse(10))
    assert ledger.run(run_id).rentals[0].state is RentalState.GONE


def test_a_dead_client_is_seen_as_dead(tmp_path: Path) -> None:
    """The lock says alive while the process lives, keeps others out, and dies with it under kill -9."""
    assert not is_alive(tmp_path)
    holder = start(HOLDER, str(tmp_path))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_alive(tmp_path)
    with pytest.raises(UsageError), ClientLock(tmp_path):
        raise AssertionError("two processes conduct one run")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert not is_alive(tmp_path)
