"""The ledger in memory: what ``gpurent.budget.ledger`` keeps in a database, without the database.

Same checks, same lines, same fold, added up as they come. ``test_books`` plays random histories against both.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpurent.budget import events as lines
from gpurent.budget.errors import LedgerError, TagTaken, UnknownRun
from gpurent.budget.events import Event, Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.state import Run, advance
from gpurent.clock import Clock


class Books:
    """The lines that all ledgers of a world share, and what they add up to."""

    def __init__(self) -> None:
        self.lines: list[Event] = []
        self.runs: dict[str, Run] = {}
        self.owners: dict[str, str] = {}
        """Runs by the tags of their intents."""
        self.closed: set[str] = set()

    def add(self, at: float, run_id: str, tag: str | None, kind: Kind, text: str) -> Event:
        """One more line."""
        event = Event(len(self.lines) + 1, at, run_id, tag, kind, lines.decode(text))
        self.lines.append(event)
        self.runs[run_id] = advance(self.runs.get(run_id), event)
        if kind is Kind.INTENT and tag is not None:
            self.owners[tag] = run_id
        if kind is Kind.RUN_CLOSED:
            self.closed.add(run_id)
        return event


class _NoDatabase:
    """Stands where the database would: there is nothing to open, to lock or to close."""

    name = "memory"
    shared = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        yield

    reading = writing

    def prepare(self) -> None: ...

    renew = prepare

    def close(self) -> None: ...


class MemoryLedger(Ledger):
    """A ledger over ``Books``."""

    def __init__(self, books: Books, clock: Clock, chooser: random.Random) -> None:
        super().__init__(_NoDatabase(), clock, chooser)  # type: ignore[arg-type]
        self.books = books

    def _admit(self, connection: Any, run_id: str, kind: Kind, tag: str | None) -> None:
        books = self.books
        if run_id not in books.runs:
            raise LedgerError(f"no run {run_id!r} in the ledger")
        owner = None if tag is None else books.owners.get(tag)
        if kind is Kind.INTENT and owner is not None:
            raise TagTaken(f"the tag {tag} is already used")
        if kind is not Kind.INTENT and tag is not None and owner != run_id:
            raise LedgerError(f"the run {run_id} has no rental {tag}")
        if kind is Kind.INTENT and run_id in books.closed:
            raise LedgerError(f"run {run_id} was closed")

    def _insert(self, connection: Any, run_id: str, kind: Kind, tag: str | None, *, text: str) -> Event:
        return self.books.add(self._clock.now(), run_id, tag, kind, text)

    def _read(self, connection: Any, run_id: str | None) -> list[Event]:
        return [one for one in self.books.lines if run_id in (None, one.run_id)]

    def _all(self, connection: Any) -> tuple[Run, ...]:
        return self.runs()

    def runs(self) -> tuple[Run, ...]:
        return tuple(self.books.runs.values())

    def claim(self, run_id: str, key: str, name: str, given_up: Callable[[Run], bool]) -> str | None:
        runs = self.books.runs
        if runs[run_id].outcome is not None:
            raise LedgerError(f"run {run_id} was closed before it began {name}")
        for run in self.open_runs():
            if run.id != run_id and key in run.claims and run.outcome is None and not given_up(run):
                return run.id
        if key not in runs[run_id].claims:
            self.append(run_id, Kind.JOB_CLAIMED, key=key, name=name)
        return None

    def open_runs(self) -> tuple[Run, ...]:
        return tuple(one for one in self.runs() if one.outcome is None or one.open_rentals)

    def run(self, run_id: str) -> Run:
        if run_id not in self.books.runs:
            raise UnknownRun(f"There is no run {run_id!r} in the ledger.")
        return self.books.runs[run_id]

    def latest(self) -> float | None:
        return max((one.at for one in self.books.lines), default=None)
