"""The ledger keeps every acknowledged line, whatever happens to its writers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.budget.world import OFFER, PRICE, intend, opened

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
from pathlib import Path
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
ledger = Ledger.open(Path(sys.argv[1]), SystemClock())
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


def reserve(path: str) -> str:
    """Runs in a process of its own: one dollar under a limit of seven."""
    ledger = Ledger.open(Path(path), SystemClock())
    try:
        return ledger.open_run("x", Usd.parse(1), output_dir=Path("out"), config={}, per_day=Usd.parse(7))
    except BudgetError:
        return ""
    finally:
        ledger.close()


def test_a_killed_writer_loses_no_acknowledged_line(tmp_path: Path) -> None:
    """After kill -9, again and again, every line whose append returned is there and the ledger is writable."""
    ledger, run_id = opened(tmp_path, ManualClock())
    acknowledged: set[int] = set()
    for lines_before_death in (1, 2, 5, 9, 14, 30):
        writer = start(WRITER, str(tmp_path / "ledger.sqlite3"), run_id)
        assert writer.stdout is not None
        for _ in range(lines_before_death):
            acknowledged.add(int(writer.stdout.readline()))
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged |= {int(line) for line in writer.stdout if line.endswith("\n")}
        writer.stdout.close()
        writer.wait()
        assert acknowledged <= {event.seq for event in ledger.events()}
        ledger.append(run_id, Kind.NOTE, message="still writable")
    ledger.close()


def test_racing_processes_never_reserve_more_than_the_limit(tmp_path: Path) -> None:
    """Of twenty processes that open the same new ledger at once, exactly those that fit get a run."""
    path = str(tmp_path / "ledger.sqlite3")
    with multiprocessing.get_context("spawn").Pool(20) as pool:
        won = [run_id for run_id in pool.map(reserve, [path] * 20, chunksize=1) if run_id]
    assert len(won) == len(set(won)) == 7
    ledger = Ledger.open(Path(path), SystemClock())
    assert Usd.total([run.budget for run in ledger.runs()]) == Usd.parse(7)
    ledger.close()


def test_what_is_appended_reads_back_typed(tmp_path: Path) -> None:
    """Offers and prices survive the way through the file; a loss that is no number becomes none."""
    clock = ManualClock()
    ledger, run_id = opened(tmp_path, clock)
    tag = intend(ledger, run_id, clock.now())
    ledger.append(run_id, Kind.CREATED, tag=tag, ref="i-1")
    ledger.append(run_id, Kind.PROGRESS, tag=tag, step=3, total=9, avg_loss=float("nan"), bytes_in=7)
    ledger.close()
    again = Ledger.open(tmp_path / "ledger.sqlite3", clock)
    run = again.latest_run()
    assert run is not None and run.id == run_id and not run.anomalies
    (rental,) = again.open_rentals()
    assert (rental.offer, rental.hourly, rental.ref, rental.bytes_in) == (OFFER, PRICE.hourly(20), "i-1", 7)
    assert run.last_progress is not None and run.last_progress.avg_loss is None
    again.close()


def test_lines_that_no_fold_could_place_are_refused(tmp_path: Path) -> None:
    """An unknown run or tag, a tag used twice, a missing or foreign key: nothing is written."""
    clock = ManualClock()
    ledger, run_id = opened(tmp_path, clock)
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
        ledger.append(run_id, Kind.RUN_OPENED, name="x", budget_micros=1, output_dir=tmp_path)
    assert ledger.events() == before
    ledger.close()


def test_the_file_itself_refuses_to_forget(tmp_path: Path) -> None:
    """Lines can be neither changed nor removed, not even by another program."""
    ledger, _ = opened(tmp_path, ManualClock())
    ledger.close()
    raw = sqlite3.connect(tmp_path / "ledger.sqlite3")
    for statement in ("DELETE FROM events", "UPDATE events SET at = 0"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(statement)
    raw.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A ledger of a later gpurent is not guessed at, and the error says what to do."""
    ledger, _ = opened(tmp_path, ManualClock())
    ledger.close()
    raw = sqlite3.connect(tmp_path / "ledger.sqlite3")
    raw.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    raw.commit()
    raw.close()
    with pytest.raises(LedgerError, match="schema 2") as refused:
        Ledger.open(tmp_path / "ledger.sqlite3", ManualClock())
    assert "Upgrade" in refused.value.hint


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    """Foreign bytes are reported, and left as they are."""
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger.open(path, ManualClock())
    assert path.read_bytes() == b"not a database" * 100


def test_an_open_rental_keeps_its_run_in_the_limit(tmp_path: Path) -> None:
    """Closing a run frees nothing while a machine of it may still bill; confirmed gone, only its cost counts."""
    clock = ManualClock()
    ledger, run_id = opened(tmp_path, clock, "6")
    tag = intend(ledger, run_id, clock.now())
    ledger.append(run_id, Kind.CREATED, tag=tag, ref="i-1")
    ledger.append(run_id, Kind.RUN_CLOSED, outcome="in doubt")
    clock.advance(3600)
    with pytest.raises(BudgetError):
        ledger.open_run("two", Usd.parse(5), output_dir=tmp_path, config={}, per_day=Usd.parse(10))
    ledger.append(run_id, Kind.GONE, tag=tag)
    assert ledger.open_run("two", Usd.parse(5), output_dir=tmp_path, config={}, per_day=Usd.parse(10))
    assert ledger.run(run_id).rentals[0].state is RentalState.GONE
    ledger.close()


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
