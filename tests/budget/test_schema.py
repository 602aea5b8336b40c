"""Ledgers of other versions, of other programs and of a dying disk: upgraded, or refused in words."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError
from tests.budget.racer import count, race
from tests.budget.world import OFFER, PRICE, Place, intend, opened

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind, encode
from gpurent.budget.ledger import Ledger
from gpurent.budget.migrations import MIGRATIONS, SCHEMA_VERSION
from gpurent.budget.state import RentalJob
from gpurent.clock import ManualClock

VERSION_1 = """
CREATE TABLE meta ("key" VARCHAR NOT NULL, value VARCHAR NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE events (
  seq INTEGER NOT NULL, at FLOAT NOT NULL, run_id VARCHAR NOT NULL, tag VARCHAR, kind VARCHAR NOT NULL,
  data TEXT NOT NULL, PRIMARY KEY (seq)
);
CREATE INDEX ix_events_run_id ON events (run_id);
CREATE INDEX ix_events_tag ON events (tag);
CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
INSERT INTO meta VALUES ('schema_version', '1');
"""


def version_1(path: Path) -> str:
    """A file as the first version left it, with a machine that runs; returns its URL."""
    opening = {"name": "cat", "budget_micros": 5, "output_dir": "out", "client": {"pid": 1, "start": 2.0, "host": "h"}}
    rental = {
        "provider": "cloud", "offer": OFFER, "price": PRICE, "disk_gb": 20, "hourly_micros": 5, "reserved_micros": 0,
        "soft_deadline": 1.0, "hard_deadline": 2.0,
    }  # fmt: skip
    raw = sqlite3.connect(path)
    raw.executescript(VERSION_1)
    for tag, kind, data in (
        (None, "run_opened", json.dumps(opening)),
        ("gpurent-r-1", "intent", encode(Kind.INTENT, rental)),
        ("gpurent-r-1", "created", '{"ref": "i-1"}'),
    ):
        raw.execute("INSERT INTO events (at, run_id, tag, kind, data) VALUES (1.5, 'r', ?, ?, ?)", (tag, kind, data))
    raw.commit()
    raw.close()
    return f"sqlite:///{path}"


def test_a_file_of_the_first_version_is_upgraded_in_place(tmp_path: Path) -> None:
    """Its runs and machines are all there, it says the new version, and what the new version forbids is forbidden."""
    url = version_1(tmp_path / "ledger.db")
    ledger = Ledger.open_url(url, ManualClock())
    (run,) = ledger.runs()
    assert (run.id, run.client.host, run.client.place, run.anomalies) == ("r", "h", "", ())
    assert [one.ref for one in ledger.open_rentals()] == ["i-1"]
    ledger.append("r", Kind.GONE, tag="gpurent-r-1")
    ledger.close()
    raw = sqlite3.connect(tmp_path / "ledger.db")
    assert raw.execute("SELECT value FROM meta").fetchall() == [(str(SCHEMA_VERSION),)]
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        raw.execute("INSERT INTO events (at, run_id, tag, kind, data) VALUES (1, 'r', 'gpurent-r-1', 'intent', '')")
    raw.close()


def test_a_rental_that_an_older_version_trained_on_has_the_one_job(tmp_path: Path) -> None:
    """Its lines know neither names nor digests of jobs: the job is there, it is over, and its file belongs to it."""
    url = version_1(tmp_path / "ledger.db")
    raw = sqlite3.connect(tmp_path / "ledger.db")
    for kind, data in (
        ("reachable", "{}"),
        ("job_started", '{"job_id": "gpurent-r-1", "name": "cat", "bytes_in": 7}'),
        ("checkpoint_home", '{"path": "cat.safetensors", "size": 3, "sha256": "0", "job_id": "gpurent-r-1"}'),
        ("job_done", '{"job_id": "gpurent-r-1"}'),
    ):
        raw.execute(
            "INSERT INTO events (at, run_id, tag, kind, data) VALUES (2.5, 'r', 'gpurent-r-1', ?, ?)", (kind, data)
        )
    raw.commit()
    raw.close()
    ledger = Ledger.open_url(url, ManualClock())
    (run,) = ledger.runs()
    ledger.close()
    (rental,) = run.rentals
    assert rental.jobs == (RentalJob("gpurent-r-1", "cat", "", 2.5, 2.5),)
    assert (rental.job_id, rental.job_over, run.artefacts[0].job_id) == ("gpurent-r-1", True, "gpurent-r-1")
    assert not run.anomalies


def test_processes_that_upgrade_at_once_all_succeed(tmp_path: Path) -> None:
    """One takes the steps, the others wait for it; nobody sees a half."""
    assert race(count, version_1(tmp_path / "ledger.db"), {}, number=8) == ["1"] * 8


def test_an_upgrade_takes_the_missing_steps_only(place: Place) -> None:
    """On both databases the last step, taken back by hand, is taken again."""
    clock = ManualClock()
    ledger, run_id = opened(place, clock)
    intend(ledger, run_id, clock.now())
    for index in ("events_one_opening", "events_one_intent"):
        place.execute(f"DROP INDEX {index}")
    place.execute("UPDATE meta SET value = '1'")
    assert place.open(clock).runs() == ledger.runs()
    with pytest.raises(IntegrityError):
        place.execute("INSERT INTO events (at, run_id, tag, kind, data) "
                      "SELECT at, run_id, tag, kind, data FROM events")  # fmt: skip


def test_steps_are_numbered_without_a_gap() -> None:
    """A version is the number of steps that were taken."""
    assert [step.number for step in MIGRATIONS] == list(range(1, SCHEMA_VERSION + 1))


def test_a_step_that_fails_leaves_nothing_behind(place: Place) -> None:
    """A table of another program in the way: refused, and the database is as it was."""
    place.execute("CREATE TABLE events (mine INTEGER)")
    with pytest.raises(LedgerError, match="already exists"):
        place.open(ManualClock())
    place.execute("DROP TABLE events")
    assert place.open(ManualClock()).runs() == ()


@pytest.mark.parametrize(("version", "said"), [("99", "has schema 99"), ("new", "not a ledger")])
def test_another_schema_is_refused(place: Place, version: str, said: str) -> None:
    """A ledger of a later gpurent is not guessed at, and the error says what to do."""
    opened(place, ManualClock())
    place.execute(f"UPDATE meta SET value = '{version}'")
    with pytest.raises(LedgerError, match=said) as refused:
        place.open(ManualClock())
    assert ("Upgrade" in refused.value.hint) == (version == "99")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Foreign bytes are reported, and left as they are."""
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerError, match="file is not a database"):
        Ledger.open(path, ManualClock())
    assert path.read_bytes() == b"not a database" * 100


def test_a_damaged_file_is_an_error_in_words_wherever_it_is_read(tmp_path: Path) -> None:
    """Half of its pages overwritten: reading says which file, and where else machines can be looked for."""
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger.open(path, ManualClock())
    for name in range(300):
        ledger.open_run(str(name) * 50, PRICE.gpu_hour, output_dir=tmp_path, config={})
    ledger.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xa5" * (len(whole) - len(whole) // 2))
    ledger = Ledger.open(path, ManualClock())
    for read in (ledger.events, ledger.runs, ledger.open_rentals):
        with pytest.raises(LedgerError, match=r"ledger\.sqlite3 cannot be read") as refused:
            read()
        assert "gpurent-" in refused.value.hint
    ledger.close()


@pytest.mark.parametrize(
    ("values", "said"),
    [("1.5, 'r', 'from_the_future', '{}'", "from_the_future"), ("1.5, 'r', 'note', '{'", "not JSON")],
)
def test_a_line_of_another_program_is_an_error_in_words(place: Place, values: str, said: str) -> None:
    """A kind that this version does not know, or half a line: nobody guesses what it hides."""
    ledger, _ = opened(place, ManualClock())
    place.execute(f"INSERT INTO events (at, run_id, kind, data) VALUES ({values})")
    with pytest.raises(LedgerError, match=said):
        ledger.runs()
