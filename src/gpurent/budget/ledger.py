"""The durable truth: append-only events in a database, committed before the act they announce.

A line that ``append`` has returned survives ``kill -9`` and a power cut of the computer that keeps the database.
Several processes write at once, on PostgreSQL from several computers; a reservation is one transaction, and
writers take turns.
"""

from __future__ import annotations

import difflib
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import sqlalchemy as sa

from gpurent.budget import events as lines
from gpurent.budget.database import Database
from gpurent.budget.errors import BudgetError, LedgerError, TagTaken, UnknownRun
from gpurent.budget.events import Event, Kind
from gpurent.budget.folding import MANY, Kept, Row, event
from gpurent.budget.spend import run_spent
from gpurent.budget.state import Rental, Run
from gpurent.clock import Clock
from gpurent.model import Workload
from gpurent.money import ZERO, Usd
from gpurent.tasks import Overdue

T = TypeVar("T")
DATABASE_S = 45.0
"""The longest wait for the database, longer than it waits itself for another writer."""
DAY_S, MONTH_S = 86_400, 30 * 86_400
_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"

_events = sa.Table(
    "events", sa.MetaData(),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float),
    sa.Column("run_id", sa.String),
    sa.Column("tag", sa.String),
    sa.Column("kind", sa.String),
    sa.Column("data", sa.Text),
)  # fmt: skip


class Ledger:
    """One ledger. Safe from several threads and processes."""

    def __init__(
        self, database: Database, clock: Clock, chooser: random.Random | None = None, patience_s: float = DATABASE_S
    ) -> None:
        self._database = database
        self._clock = clock
        self._chooser = chooser or random.SystemRandom()
        self.kept = Kept()
        """What was read of it so far. Ledgers of one process that lie in the same place may share it."""
        self._patience_s = patience_s
        self._ask(database.prepare)

    @classmethod
    def open(cls, path: Path, clock: Clock, chooser: random.Random | None = None) -> Self:
        """Open or make the ledger in the file ``path``.

        Raises:
            LedgerError: the file is not a ledger, or was written by a newer gpurent.
        """
        return cls(Database.at_file(path), clock, chooser)

    @classmethod
    def open_url(cls, url: str, clock: Clock, chooser: random.Random | None = None) -> Self:
        """Open the ledger at ``postgresql+psycopg://…`` or ``sqlite:///…``, making its tables where there are none.

        Raises:
            LedgerError: as ``open``; or the server is out of reach, refuses us, or its driver is not installed. No
                message shows the password.
        """
        return cls(Database.at_url(url), clock, chooser)

    def __repr__(self) -> str:
        return f"Ledger({self._database.name!r})"

    def append(self, run_id: str, kind: Kind, *, tag: str | None = None, **data: object) -> Event:
        """Record one step; when this returns, it is on disk.

        Raises:
            LedgerError: the data does not fit its kind, the run or tag is unknown, a tag is used twice, or the disk
                refuses.
        """
        if kind is Kind.RUN_OPENED:
            raise LedgerError("a run is opened with open_run, which reserves its budget")
        if (tag is None) != (kind in lines.OF_A_RUN) and kind not in lines.OF_EITHER:
            raise LedgerError(f"{kind} {'needs' if tag is None else 'takes no'} tag")
        text = lines.encode(kind, data)

        def write() -> Event:
            with self._database.writing() as connection:
                self._admit(connection, run_id, kind, tag)
                return self._insert(connection, run_id, kind, tag, text=text)

        return self._ask(write)

    def _ask(self, act: Callable[[], T]) -> T:
        """Have the database do something. One that has stopped to answer is left behind, and its connections with it.

        Raises:
            LedgerError: also when it did not answer in time; what was to be written may be there.
        """
        try:
            return self._clock.begin(act).result(self._patience_s, self._database.renew)
        except Overdue:
            raise LedgerError(
                f"the ledger {self._database.name} has not answered for {self._patience_s:.0f} s",
                hint="Does its server or disk hang?", passing=True,
            ) from None  # fmt: skip

    def _admit(self, connection: sa.Connection, run_id: str, kind: Kind, tag: str | None) -> None:
        """Refuse a line that no fold could place: it would hide a machine that costs money."""
        of_run = sa.select(_events.c.seq).where(_events.c.run_id == run_id).limit(1)
        if connection.scalar(of_run) is None:
            raise LedgerError(f"no run {run_id!r} in the ledger")
        intent = sa.select(_events.c.run_id).where(_events.c.tag == tag, _events.c.kind == Kind.INTENT.value)
        owner = None if tag is None else connection.scalar(intent)
        if kind is Kind.INTENT and owner is not None:
            raise TagTaken(f"the tag {tag} is already used")
        if kind is not Kind.INTENT and tag is not None and owner != run_id:
            raise LedgerError(f"the run {run_id} has no rental {tag}")
        closed = of_run.where(_events.c.kind == Kind.RUN_CLOSED.value)
        if kind is Kind.INTENT and connection.scalar(closed) is not None:
            raise LedgerError(
                f"run {run_id} was closed, and gave its reservation back, before it rented anything more",
                hint="It was not heard of for too long. Start it again: `gpurent train`.",
            )

    def _insert(self, connection: sa.Connection, run_id: str, kind: Kind, tag: str | None, *, text: str) -> Event:
        at = self._clock.now()
        result = connection.execute(_events.insert().values(at=at, run_id=run_id, tag=tag, kind=kind.value, data=text))
        key = result.inserted_primary_key
        assert key is not None
        return Event(seq=int(key[0]), at=at, run_id=run_id, tag=tag, kind=kind, data=lines.decode(text))

    def open_run(
        self, name: str, budget: Usd, *, output_dir: Path, config: Mapping[str, lines.JSON],
        data_dir: Path | None = None, workload: Workload | None = None, place: str = "",
        per_day: Usd | None = None, per_month: Usd | None = None, clock_offset: float | None = None,
    ) -> str:  # fmt: skip
        """Reserve ``budget`` and return the new run's id, in one transaction against all other processes.

        ``place`` names this computer's state folder to others who share the ledger; ``clock_offset`` is the services'
        time minus this computer's, in seconds.

        Raises:
            BudgetError: the budget does not fit under ``per_day`` or ``per_month`` with what all runs committed; of
                play money, which ``config["play"]`` tells, only what other play committed counts.
        """
        client = {"pid": os.getpid(), "start": time.time() - time.monotonic(), "host": socket.gethostname(),
                  "place": place, "clock_offset": clock_offset}  # fmt: skip
        text = lines.encode(
            Kind.RUN_OPENED,
            {"name": name, "budget_micros": budget.micros, "config": dict(config), "data_dir": data_dir,
             "output_dir": output_dir, "workload": workload, "client": client},
        )  # fmt: skip

        def write() -> str:
            with self._database.writing() as connection:
                runs = self._all(connection)
                alike = tuple(run for run in runs if run.play is (config.get("play") is True))
                for label, limit, window in (("day", per_day, DAY_S), ("month", per_month, MONTH_S)):
                    self._check(alike, budget, label, limit, window=window)
                run_id = self._new_id({run.id for run in runs})
                self._insert(connection, run_id, Kind.RUN_OPENED, None, text=text)
            return run_id

        return self._ask(write)

    def claim(self, run_id: str, key: str, name: str, given_up: Callable[[Run], bool]) -> str | None:
        """Claim a job for a run, in one transaction against all other processes on all computers.

        Args:
            run_id: that is to train it; it may hold the claim already.
            key: digest of everything that decides the job's result.
            name: of the job.
            given_up: whether the client of another run that claims the job is gone for good.

        Returns:
            None where the run has it now; otherwise the run that has it.

        Raises:
            LedgerError: also where the run was closed meanwhile.
        """
        holders = [run for run in self.open_runs() if run.id != run_id and key in run.claims]
        gone = {run.id for run in holders if given_up(run)}
        text = lines.encode(Kind.JOB_CLAIMED, {"key": key, "name": name})

        def write() -> str | None:
            with self._database.writing() as connection:
                runs = {run.id: run for run in self._all(connection)}
                if runs[run_id].outcome is not None:
                    raise LedgerError(f"run {run_id} was closed before it began {name}", hint="Run the batch again.")
                for run in runs.values():
                    if run.id != run_id and key in run.claims and run.outcome is None and run.id not in gone:
                        return run.id
                if key not in runs[run_id].claims:
                    self._insert(connection, run_id, Kind.JOB_CLAIMED, None, text=text)
            return None

        return self._ask(write)

    def _check(self, runs: tuple[Run, ...], budget: Usd, label: str, limit: Usd | None, *, window: int) -> None:
        if limit is None:
            return
        now = self._clock.now()
        taken = Usd.total([committed(run, now) for run in runs if counts(run, now - window)])
        if taken + budget > limit:
            left = max(ZERO, limit - taken)
            raise BudgetError(
                f"{budget.rounded()} do not fit under the limit of {limit.rounded()} per {label}: "
                f"{left.rounded()} are left",
                hint="Lower --budget, or raise [limits] in gpurent.toml.",
            )

    def _new_id(self, taken: set[str]) -> str:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock.now()))
        while True:
            run_id = f"{stamp}-{''.join(self._chooser.choice(_ALPHABET) for _ in range(4))}"
            if run_id not in taken:
                return run_id

    def _read(self, connection: sa.Connection, run_id: str | None) -> list[Event]:
        query = sa.select(_events).order_by(_events.c.seq)
        if run_id is not None:
            query = query.where(_events.c.run_id == run_id)
        return [event(row) for row in _rows(connection, query)]

    def _all(self, connection: sa.Connection) -> tuple[Run, ...]:
        """All runs, as this connection sees them."""
        return self.kept.runs(lambda since: _rows(connection, _from(since)))

    def events(self, run_id: str | None = None) -> list[Event]:
        """All lines, or those of one run, oldest first."""

        def read() -> list[Event]:
            with self._database.reading() as connection:
                return self._read(connection, run_id)

        return self._ask(read)

    def runs(self) -> tuple[Run, ...]:
        """All runs, oldest first. Only lines that are new since the last read are read."""
        return self.kept.runs(lambda since: self._select(_from(since)))

    def open_runs(self) -> tuple[Run, ...]:
        """Runs that are not closed or may still cost money, oldest first. Of all others, few lines are read."""
        many = [kind.value for kind in MANY]
        found = self.kept.outlines(lambda since: self._select(_from(since).where(_events.c.kind.not_in(many))))
        return tuple(self.run(run.id) for run in found if run.outcome is None or run.open_rentals)

    def run(self, run_id: str) -> Run:
        """One run. Raises UnknownRun naming the nearest, or else the latest, when there is none."""
        found = self.kept.run(run_id, lambda since: self._select(_from(since).where(_events.c.run_id == run_id)))
        if found is None:
            raise UnknownRun(f"There is no run {run_id!r} in the ledger.", hint=self._nearest(run_id))
        return found

    def _select(self, query: sa.Select[Any]) -> Sequence[Row]:
        def read() -> Sequence[Row]:
            with self._database.reading() as connection:
                return _rows(connection, query)

        return self._ask(read)

    def _nearest(self, run_id: str) -> str:
        known = [run.id for run in self.runs()]
        if not known:
            return "No run was ever started here; `gpurent train --budget 10` starts one."
        close = difflib.get_close_matches(run_id, known, n=1)
        return f"Did you mean {close[0]!r}?" if close else f"Latest runs: {', '.join(known[-3:])}."

    def latest_run(self) -> Run | None:
        """The run that was opened last."""
        query = sa.select(_events.c.run_id).where(_events.c.kind == Kind.RUN_OPENED.value)
        run_id = self._scalar(query.order_by(_events.c.seq.desc()).limit(1))
        return None if run_id is None else self.run(run_id)

    def latest(self) -> float | None:
        """When the newest line was written, in Unix seconds."""
        written: float | None = self._scalar(sa.select(sa.func.max(_events.c.at)))
        return written

    def _scalar(self, query: sa.Select[Any]) -> Any:
        def read() -> object:
            with self._database.reading() as connection:
                return connection.scalar(query)

        return self._ask(read)

    def clock_offset(self) -> float | None:
        """The time of a shared database's server minus this computer's in seconds; None for a file of this computer."""

        def ask() -> float:
            sent = self._clock.now()
            with self._database.reading() as connection:
                there = self._database.time(connection)
            return there - (sent + self._clock.now()) / 2

        return self._ask(ask) if self._database.shared else None

    def open_rentals(self) -> tuple[Rental, ...]:
        """Everything that may still cost money, over all runs."""
        return tuple(rental for run in self.open_runs() for rental in run.open_rentals)

    def close(self) -> None:
        """Release file or connections."""
        self._database.close()


def committed(run: Run, now: float) -> Usd:
    """What a run takes from the limits: its whole budget (or more, if exceeded) while open, then what it cost."""
    spent = run_spent(run, now)
    return max(run.budget, spent) if run.closed_at is None or run.open_rentals else spent


def counts(run: Run, since: float) -> bool:
    """Whether a run takes from a limit whose window began at ``since``: while open, and from its *end* on, so that
    one which straddles the border is never counted too low."""
    return run.closed_at is None or bool(run.open_rentals) or run.closed_at > since


def _from(since: int) -> sa.Select[Any]:
    return sa.select(_events).where(_events.c.seq >= since).order_by(_events.c.seq)


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> Sequence[Row]:
    return cast("Sequence[Row]", connection.execute(query).fetchall())
