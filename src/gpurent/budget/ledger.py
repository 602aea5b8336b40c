"""The durable truth: append-only events in SQLite, committed before the act they announce.

WAL with ``synchronous=FULL``: a line that ``append`` has returned survives ``kill -9`` and a power cut. Several
processes write at once; a reservation is one immediate transaction.
"""

from __future__ import annotations

import difflib
import os
import random
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from gpurent.budget import events as lines
from gpurent.budget.errors import BudgetError, LedgerError, UnknownRun
from gpurent.budget.events import Event, Kind
from gpurent.budget.spend import run_spent
from gpurent.budget.state import Rental, Run, fold
from gpurent.clock import Clock
from gpurent.model import Workload
from gpurent.money import ZERO, Usd

SCHEMA_VERSION = 1
DAY_S, MONTH_S = 86_400, 30 * 86_400
_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"

_metadata = sa.MetaData()
_meta = sa.Table(
    "meta", _metadata, sa.Column("key", sa.String, primary_key=True), sa.Column("value", sa.String, nullable=False)
)
_events = sa.Table(
    "events", _metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("run_id", sa.String, nullable=False, index=True),
    sa.Column("tag", sa.String, index=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)  # fmt: skip


class Ledger:
    """One ledger file. Safe from several threads and processes."""

    def __init__(self, engine: sa.Engine, clock: Clock, chooser: random.Random) -> None:
        self._engine = engine
        self._clock = clock
        self._chooser = chooser

    @classmethod
    def open(cls, path: Path, clock: Clock, chooser: random.Random | None = None) -> Ledger:
        """Open or make the ledger at ``path``.

        Raises:
            LedgerError: the file is no ledger, or was written by a newer gpurent.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30}, isolation_level="AUTOCOMMIT")
        event.listen(engine, "connect", _pragmas)
        ledger = cls(engine, clock, chooser or random.SystemRandom())
        try:
            ledger._prepare(path)
        except exc.DatabaseError as error:
            engine.dispose()
            raise LedgerError(
                f"{path} is not a ledger that can be read: {error.orig}",
                hint="Move it away only if no rental runs: gpurent reap.",
            ) from error
        except LedgerError:
            engine.dispose()
            raise
        return ledger

    def _prepare(self, path: Path) -> None:
        with self._writing() as connection:
            _metadata.create_all(connection)
            known = connection.execute(sa.select(_meta.c.value).where(_meta.c.key == "schema_version")).scalar()
            if known is None:
                for verb in ("UPDATE", "DELETE"):
                    connection.exec_driver_sql(
                        f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events "
                        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
                    )
                connection.execute(_meta.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
            elif int(known) > SCHEMA_VERSION:
                raise LedgerError(
                    f"{path} has schema {known}; this gpurent knows {SCHEMA_VERSION}", hint="Upgrade gpurent."
                )

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

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
        try:
            with self._writing() as connection:
                self._admit(connection, run_id, kind, tag)
                return self._insert(connection, run_id, kind, tag, text)
        except exc.DBAPIError as error:
            raise LedgerError(
                f"the ledger cannot be written: {error.orig}", hint="Free disk space; then `gpurent reap`."
            ) from error

    def _admit(self, connection: sa.Connection, run_id: str, kind: Kind, tag: str | None) -> None:
        """Refuse a line that no fold could place: it would hide a machine that costs money."""
        of_run = sa.select(_events.c.seq).where(_events.c.run_id == run_id).limit(1)
        if connection.scalar(of_run) is None:
            raise LedgerError(f"no run {run_id!r} in the ledger")
        intent = sa.select(_events.c.run_id).where(_events.c.tag == tag, _events.c.kind == Kind.INTENT.value)
        owner = None if tag is None else connection.scalar(intent)
        if kind is Kind.INTENT and owner is not None:
            raise LedgerError(f"the tag {tag} is already used")
        if kind is not Kind.INTENT and tag is not None and owner != run_id:
            raise LedgerError(f"the run {run_id} has no rental {tag}")

    def _insert(self, connection: sa.Connection, run_id: str, kind: Kind, tag: str | None, text: str) -> Event:
        at = self._clock.now()
        result = connection.execute(_events.insert().values(at=at, run_id=run_id, tag=tag, kind=kind.value, data=text))
        key = result.inserted_primary_key
        assert key is not None
        return Event(int(key[0]), at, run_id, tag, kind, lines.decode(text))

    def open_run(
        self, name: str, budget: Usd, *, output_dir: Path, config: Mapping[str, lines.JSON],
        data_dir: Path | None = None, workload: Workload | None = None,
        per_day: Usd | None = None, per_month: Usd | None = None,
    ) -> str:  # fmt: skip
        """Reserve ``budget`` and return the new run's id, in one transaction against all other processes.

        Raises:
            BudgetError: the budget does not fit under ``per_day`` or ``per_month`` with what all runs committed.
        """
        client = {"pid": os.getpid(), "start": time.time() - time.monotonic(), "host": socket.gethostname()}
        text = lines.encode(
            Kind.RUN_OPENED,
            {"name": name, "budget_micros": budget.micros, "config": dict(config), "data_dir": data_dir,
             "output_dir": output_dir, "workload": workload, "client": client},
        )  # fmt: skip
        with self._writing() as connection:
            runs = fold(self._read(connection, None))
            for label, limit, window in (("day", per_day, DAY_S), ("month", per_month, MONTH_S)):
                self._check(runs, budget, label, limit, window)
            run_id = self._new_id({run.id for run in runs})
            self._insert(connection, run_id, Kind.RUN_OPENED, None, text)
        return run_id

    def _check(self, runs: tuple[Run, ...], budget: Usd, label: str, limit: Usd | None, window: int) -> None:
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
        return [
            Event(row.seq, row.at, row.run_id, row.tag, Kind(row.kind), lines.decode(row.data))
            for row in connection.execute(query)
        ]

    def events(self, run_id: str | None = None) -> list[Event]:
        """All lines, or those of one run, oldest first."""
        with self._engine.connect() as connection:
            return self._read(connection, run_id)

    def runs(self) -> tuple[Run, ...]:
        """All runs, oldest first."""
        return fold(self.events())

    def run(self, run_id: str) -> Run:
        """One run. Raises UnknownRun naming the nearest, or else the latest, when there is none."""
        found = fold(self.events(run_id))
        if not found:
            raise UnknownRun(f"There is no run {run_id!r} in the ledger.", hint=self._nearest(run_id))
        return found[0]

    def _nearest(self, run_id: str) -> str:
        known = [run.id for run in self.runs()]
        if not known:
            return "No run was ever started here; `gpurent train --budget 10` starts one."
        close = difflib.get_close_matches(run_id, known, n=1)
        return f"Did you mean {close[0]!r}?" if close else f"Latest runs: {', '.join(known[-3:])}."

    def latest_run(self) -> Run | None:
        """The run that was opened last."""
        query = sa.select(_events.c.run_id).where(_events.c.kind == Kind.RUN_OPENED.value)
        with self._engine.connect() as connection:
            run_id = connection.scalar(query.order_by(_events.c.seq.desc()).limit(1))
        return None if run_id is None else self.run(run_id)

    def open_rentals(self) -> tuple[Rental, ...]:
        """Everything that may still cost money, over all runs."""
        return tuple(rental for run in self.runs() for rental in run.open_rentals)

    def close(self) -> None:
        """Release the file."""
        self._engine.dispose()


def committed(run: Run, now: float) -> Usd:
    """What a run takes from the limits: its whole budget (or more, if exceeded) while open, then what it cost."""
    spent = run_spent(run, now)
    return max(run.budget, spent) if run.closed_at is None or run.open_rentals else spent


def counts(run: Run, since: float) -> bool:
    """Whether a run takes from a limit whose window began at ``since``: while open, and from its *end* on, so that
    one which straddles the border is never counted too low."""
    return run.closed_at is None or bool(run.open_rentals) or run.closed_at > since


def _pragmas(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
