"""The death of a client: at any step, before or after it took effect, and for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.simulation.clock import VirtualClock

from gpurent.budget.events import Event, Kind
from gpurent.budget.ledger import Ledger


class Crash(BaseException):
    """``kill -9``: no handler of ours may act on it, and none can, since every port of a dead client raises it."""


class Fate:
    """One client's steps. Each call of a port is two: before its effect, and after."""

    def __init__(self, clock: VirtualClock, *, crash_at: int | None = None, naps: Mapping[int, float] | None = None):
        self._clock = clock
        self._crash_at = crash_at
        self._naps = dict(naps or {})
        self.steps = 0
        self.dead = False
        self.died_in = ""

    def step(self, what: str) -> None:
        """Take a step, unless death comes first. A nap is a laptop that was closed meanwhile."""
        if self.dead:
            raise Crash(what)
        self.steps += 1
        if self.steps == self._crash_at:
            self.dead, self.died_in = True, what
            raise Crash(what)
        nap = self._naps.pop(self.steps, 0.0)
        if nap:
            self._clock.sleep(nap)


class MortalClock:
    """The clock as a client sees it: it may die in its sleep."""

    def __init__(self, clock: VirtualClock, fate: Fate) -> None:
        self._clock = clock
        self._fate = fate

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        self._fate.step("sleep")
        self._clock.sleep(seconds)


class MortalLedger(Ledger):
    """A ledger whose writer may die before a line is committed, or right after."""

    fate: Fate
    written: Counter[str]
    witness: Callable[[Kind, str | None], None]
    """Hears of every line that was committed."""

    def append(self, run_id: str, kind: Kind, *, tag: str | None = None, **data: object) -> Event:
        self.fate.step(f"before {kind}")
        event = super().append(run_id, kind, tag=tag, **data)
        self.written[kind.value] += 1
        self.witness(kind, tag)
        self.fate.step(f"after {kind}")
        return event

    def open_run(self, *arguments: Any, **options: Any) -> str:
        self.fate.step("before run_opened")
        run_id = super().open_run(*arguments, **options)
        self.written[Kind.RUN_OPENED.value] += 1
        self.fate.step("after run_opened")
        return run_id

    def events(self, run_id: str | None = None) -> list[Event]:
        if self.fate.dead:
            raise Crash("reading the ledger")
        return super().events(run_id)

    @classmethod
    def mortal(
        cls, path: Path, clock: MortalClock, fate: Fate, written: Counter[str], chooser: Any,
        witness: Callable[[Kind, str | None], None],
    ) -> MortalLedger:  # fmt: skip
        """Open the ledger of ``path`` for a client with this fate."""
        ledger = cls.open(path, clock, chooser)
        assert isinstance(ledger, MortalLedger)
        ledger.fate, ledger.written, ledger.witness = fate, written, witness
        return ledger
