"""What only a server can do to a ledger: refuse us, be away, and be shared with readers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import traceback
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.budget.postgres import PASSWORD, USER, Server

from gpurent.budget.database import Database
from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import ManualClock, SystemClock
from gpurent.money import Usd

WRONG = "wrong:se/cret@1"


def everything(error: LedgerError) -> str:
    """All that anybody prints of an error."""
    return " ".join([str(error), repr(error), error.hint, *traceback.format_exception(error)])


@pytest.mark.parametrize("trouble", ["password", "database", "away"])
def test_a_server_that_refuses_is_named_without_the_password(server: Server, trouble: str) -> None:
    """Wrong password, no such database, no server: user, host and database are in the message, the secret is not."""
    url = {
        "password": server.url(password=WRONG),
        "database": server.url("nowhere", password=PASSWORD),
        "away": sa.URL.create("postgresql", "anna", WRONG, "127.0.0.1", 1, "team").render_as_string(False),
    }[trouble]
    with pytest.raises(LedgerError, match=f"postgresql://{USER}@.* cannot be read") as refused:
        Ledger.open_url(url, ManualClock())
    assert "GPURENT_LEDGER_URL" in refused.value.hint
    for secret in (PASSWORD, WRONG, "se/cret", "se%2Fcret"):
        assert secret not in everything(refused.value)


def test_a_server_that_hangs_holds_nobody_up(server: Server) -> None:
    """It keeps its connections open and answers nothing: every access ends, and once it goes on, so does the ledger."""
    with closing(Ledger(Database.at_url(server.fresh()), SystemClock(), patience_s=1.0)) as ledger:
        run_id = ledger.open_run("cat", Usd.parse("1"), output_dir=Path(), config={})
        with server.frozen():
            for act in (ledger.runs, ledger.latest, lambda: ledger.append(run_id, Kind.NOTE)):
                with pytest.raises(LedgerError, match="has not answered for 1 s") as hung:
                    act()
                assert hung.value.passing
        assert [run.id for run in ledger.runs()] == [run_id]


def test_a_password_may_stand_in_the_query(server: Server) -> None:
    """libpq takes it there too: it opens the ledger, and no repr shows it."""
    url = sa.make_url(server.fresh())
    ledger = Ledger.open_url(
        url.set(password=None).update_query_dict({"password": PASSWORD}).render_as_string(False), ManualClock()
    )
    try:
        assert ledger.runs() == ()
        assert PASSWORD not in repr(ledger) + repr(vars(ledger)) and USER in repr(ledger)
    finally:
        ledger.close()


def test_what_a_server_says_is_cleaned_of_the_password(server: Server) -> None:
    """Even a statement's error that repeats it, in any spelling."""
    database = Database.at_url(server.url())
    with pytest.raises(LedgerError) as refused, database.reading() as connection:
        connection.execute(sa.text(f"SELECT '{PASSWORD.replace(':', chr(92) + ':')}'::integer"))
    database.close()
    assert "***" in str(refused.value) and PASSWORD not in everything(refused.value)


@pytest.mark.parametrize("command", [["status"], ["quote", "--gpu", "4090", "--images", "10", "--budget", "5"]])
def test_a_command_whose_ledger_is_away_says_that_something_may_run(server: Server, command: list[str]) -> None:
    """Exit 5, one error in words and no secret: without the ledger nobody knows that nothing runs."""
    environment = {**os.environ, "GPURENT_LEDGER_URL": server.url(password=WRONG)}
    ended = subprocess.run(
        [sys.executable, "-m", "gpurent.cli.app", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 5, ended.stderr
    assert "error: the ledger postgresql://anna@" in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr and "se/cret" not in ended.stdout + ended.stderr


def test_the_page_on_sharing_makes_a_ledger_and_a_reader_that_cannot_write(server: Server, repository: Path) -> None:
    """Its SQL is run as it stands: members write under the limits, the reader sees all and records nothing."""
    page = (repository / "docs/how-to/share-a-budget.md").read_text(encoding="utf-8")
    making, reading = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    (shown,) = re.findall(r"GPURENT_LEDGER_URL='([^']+)'", page)
    member = sa.make_url(shown).set(host="", query={"host": str(server.folder)})
    looking = member.set(username="gpurent_reader", password="only-looking")
    server.execute(server.url("postgres"), making)
    with closing(Ledger.open_url(member.render_as_string(False), ManualClock())) as ledger:
        run_id = ledger.open_run("cat", Usd.parse(1), output_dir=server.folder, config={})
        server.execute(server.url("gpurent"), reading)
        with closing(Ledger.open_url(looking.render_as_string(False), ManualClock())) as eyes:
            assert eyes.runs() == ledger.runs()
            with pytest.raises(LedgerError, match="permission denied"):
                eyes.append(run_id, Kind.NOTE, message="me too")


def test_a_role_that_answers_before_the_disk_does_not_get_its_way(server: Server) -> None:
    """Whatever the role's defaults, a line is on disk before it is acknowledged, and a writer reads what is newest."""
    options = "-csynchronous_commit=off -cdefault_transaction_isolation=serializable"
    database = Database.at_url(
        sa.make_url(server.url()).update_query_dict({"options": options}).render_as_string(False)
    )
    with database.writing() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("synchronous_commit", "transaction_isolation", "lock_timeout")
        ]
    database.close()
    assert shown == ["on", "read committed", "30s"]


def test_a_writer_waits_for_the_one_before_it(server: Server) -> None:
    """The second transaction begins to read only when the first is over, on another connection of another program."""
    first, second = (Database.at_url(server.url()) for _ in range(2))
    order: list[str] = []

    def late() -> None:
        with second.writing():
            order.append("second")

    thread = threading.Thread(target=late)
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with first.writing() as connection:
        thread.start()
        while not connection.scalar(waiting):
            assert thread.is_alive(), "the second writer did not wait"
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    first.close()
    second.close()


def test_a_connection_that_the_server_closed_is_replaced(server: Server) -> None:
    """A restart or a sleeping laptop cuts idle connections: the next line is written all the same."""
    ledger = Ledger.open_url(server.fresh(), ManualClock())
    run_id = ledger.open_run("cat", Usd.parse(1), output_dir=server.folder, config={})
    other = sa.create_engine(server.url(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with other.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'team'"
        )
    assert ledger.append(run_id, Kind.NOTE, message="still here").data == {"message": "still here"}
    ledger.close()
