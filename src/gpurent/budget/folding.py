"""Adding up lines as they come, each once: what was added up before is kept, and only new lines are read.

The state is exactly that of ``state.fold`` over all lines: a property test compares them. Nearly all lines of a long
ledger are reports of progress, and of each series of them only the last one and the highest counts leave a trace. So a
series is added up by itself, and joins its run when another line comes, or a reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TypeVar

from pydantic_core import from_json

from gpurent.budget import events as lines
from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Event, Kind
from gpurent.budget.state import ProgressPoint, Run, advance

T = TypeVar("T")
Row = tuple[int, float, str, str | None, str, str]
"""One line as it lies in the database: ``seq``, ``at``, ``run_id``, ``tag``, ``kind``, ``data``."""

MANY = (Kind.PROGRESS, Kind.CHECKPOINT_HOME, Kind.METERED)
"""Lines that a rental has many of, and that neither close nor open it, nor its run."""
_KINDS = frozenset(Kind)
_COUNTS = frozenset({"bytes_in", "bytes_out", "step", "total", "epoch", "epochs"})
_NUMBERS = frozenset({"loss", "avg_loss", "it_s", "peak_mem_mb", "elapsed_s"})
_TEXTS = frozenset({"reason", "job_id"})


def event(row: Row) -> Event:
    """A line as an event. A file that was damaged may hold anything anywhere. Raises LedgerError."""
    seq, at, run_id, tag, kind, data = row
    if not isinstance(at, int | float) or kind not in _KINDS:
        raise LedgerError(
            f"line {seq} of the ledger cannot be read: {kind!r} at {at!r}",
            hint="A newer gpurent may have written it: upgrade. Otherwise restore the ledger from a backup.",
        )
    return Event(seq=seq, at=at, run_id=run_id, tag=tag, kind=Kind(kind), data=lines.decode(data))


@dataclass
class _Reports:
    """A series of reports of one rental's progress, with no other line of its run in between."""

    tag: str
    index: int
    """Of the rental among its run's."""
    bytes_in: int
    bytes_out: int
    alive_at: float
    at: float = 0.0
    last: dict[str, object] = field(default_factory=dict)

    def add(self, at: float, told: dict[str, object]) -> None:
        """One more, which ``_report`` found to be plain."""
        self.at, self.last = at, told
        if at > self.alive_at:
            self.alive_at = at
        count = told.get("bytes_in", 0)
        if count > self.bytes_in:  # type: ignore[operator]
            self.bytes_in = count  # type: ignore[assignment]
        count = told.get("bytes_out", 0)
        if count > self.bytes_out:  # type: ignore[operator]
            self.bytes_out = count  # type: ignore[assignment]

    def joined(self, run: Run) -> Run:
        """The run with them."""
        rental = replace(
            run.rentals[self.index], bytes_in=self.bytes_in, bytes_out=self.bytes_out, alive_at=self.alive_at
        )
        told = lines.ProgressMade.model_validate(self.last)
        point = ProgressPoint(
            at=self.at,
            step=told.step,
            total=told.total,
            epoch=told.epoch,
            epochs=told.epochs,
            avg_loss=told.avg_loss,
            it_s=told.it_s,
        )
        rentals = (*run.rentals[: self.index], rental, *run.rentals[self.index + 1 :])
        return replace(run, rentals=rentals, last_progress=point, heard_at=self.at)


def _report(data: str) -> dict[str, object] | None:
    """The payload of a report in which every value is of the very type that it is written with; None for any other,
    right or wrong: those are left to ``state.advance``."""
    try:
        told = from_json(data)
    except ValueError:
        return None
    if type(told) is not dict or "step" not in told or "total" not in told:
        return None
    for key, value in told.items():
        kind = type(value)
        if key in _COUNTS:
            if kind is not int or value < 0:
                return None
        elif key in _NUMBERS:
            if kind is not float:
                return None
        elif key not in _TEXTS or kind is not str:
            return None
    return told


class Folder:
    """Runs, as far as their lines have been added."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._reports: dict[str, _Reports] = {}

    def add(self, row: Row) -> None:
        """One more line. Raises LedgerError where ``event`` does."""
        _, at, run_id, tag, kind, data = row
        if kind == "progress" and type(at) is float:
            reports = self._reports.get(run_id)
            if reports is None or reports.tag != tag:
                self._join(run_id)
                reports = self._begin(run_id, tag)
            told = None if reports is None else _report(data)
            if reports is not None and told is not None:
                reports.add(at, told)
                return
        self._join(run_id)
        self._runs[run_id] = advance(self._runs.get(run_id), event(row))

    def _begin(self, run_id: str, tag: str | None) -> _Reports | None:
        """A series for a rental that is not over; reports of any other are anomalies."""
        run = self._runs.get(run_id)
        for index, rental in enumerate(() if run is None else run.rentals):
            if rental.tag == tag:
                if rental.state.over:
                    return None
                begun = _Reports(rental.tag, index, rental.bytes_in, rental.bytes_out, rental.alive_at)
                self._reports[run_id] = begun
                return begun
        return None

    def _join(self, run_id: str) -> None:
        reports = self._reports.pop(run_id, None)
        if reports is not None and reports.last:
            self._runs[run_id] = reports.joined(self._runs[run_id])

    def run(self, run_id: str) -> Run | None:
        """One run."""
        self._join(run_id)
        return self._runs.get(run_id)

    def runs(self) -> tuple[Run, ...]:
        """All runs, in the order of their first lines."""
        for run_id in list(self._reports):
            self._join(run_id)
        return tuple(self._runs.values())


@dataclass
class _Cursor:
    """How far a part of the ledger has been added up: up to line ``seq``, which was written at ``at``."""

    seq: int = 0
    at: float = 0.0
    folder: Folder = field(default_factory=Folder)

    def stands(self, rows: Sequence[Row]) -> bool:
        """Whether ``rows`` begin with the line that was added last: else this is another ledger than before."""
        return self.seq == 0 or bool(rows and rows[0][0] == self.seq and rows[0][1] == self.at)

    def add(self, rows: Iterable[Row]) -> None:
        """Add what is new. Raises LedgerError at a line that cannot be read, and again the next time."""
        for row in rows:
            if row[0] > self.seq:
                self.folder.add(row)
                self.seq, self.at = row[0], row[1]


Read = Callable[[int], Sequence[Row]]
"""Reads the lines from a ``seq`` on, that line included, in their order."""


class Kept:
    """What the lines of one ledger add up to, kept between reads. Safe from several threads: no lock is held while the
    database is read, and rows that two threads read are added once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._cursors: dict[str | None, _Cursor] = {}
        """By run; that of None is over all of them, and that of the empty name over their outlines."""

    def runs(self, read: Read) -> tuple[Run, ...]:
        """All runs, oldest first."""
        return self._read(None, read, Folder.runs)

    def outlines(self, read: Read) -> tuple[Run, ...]:
        """All runs as far as other lines than ``MANY`` tell, which ``read`` leaves out."""
        return self._read("", read, Folder.runs)

    def run(self, run_id: str, read: Read) -> Run | None:
        """One run, of which ``read`` reads the lines."""
        return self._read(run_id, read, lambda folder: folder.run(run_id))

    def _read(self, key: str | None, read: Read, take: Callable[[Folder], T]) -> T:
        while True:
            with self._lock:
                cursor = self._cursors.setdefault(key, _Cursor())
                since = cursor.seq
            rows = read(since)
            with self._lock:
                if self._cursors.get(key) is cursor and (cursor.seq != since or cursor.stands(rows)):
                    cursor.add(rows)
                    return take(cursor.folder)
                self._cursors.pop(key, None)  # the file was replaced, by a backup perhaps
