"""Progress while a session runs: bars on a terminal, lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import dataclasses
import math
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gpurent.cli import consoles
from gpurent.cli.output import duration, print_json_line, shown
from gpurent.jobs.progress import (
    Collected,
    Gone,
    JobBegun,
    JobOver,
    Notice,
    Rented,
    Spending,
    Stage,
    StageMoved,
    StageStarted,
    Trained,
)
from gpurent.jobs.progress import Progress as Event
from gpurent.money import Usd

_LABELS = {
    Stage.RENT: "Renting", Stage.BOOT: "Booting", Stage.PROVE: "Examining", Stage.UPLOAD: "Uploading",
    Stage.PREPARE: "Preparing", Stage.TRAIN: "Training", Stage.COLLECT: "Collecting", Stage.DRAW: "Drawing",
    Stage.DESTROY: "Destroying",
}  # fmt: skip
QUIET_EVERY_S = 5.0


class LiveView:
    """Hears every event of a session; a context manager around it. The money line is always in view."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or consoles.make()
        self._bars = Progress(
            TextColumn("{task.description:<11}"), BarColumn(bar_width=28),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True), console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._money: TaskID | None = None
        self._current: tuple[Stage, TaskID] | None = None
        self._spoken = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Rented(offer=offer, ref=ref, guards=guards):
                self._line(f"Rented {offer.gpu} on {offer.provider} ({ref}); it is ended by: {', '.join(guards)}.")
            case StageStarted():
                self._started(event)
            case StageMoved(done=done, total=total):
                drawing = self._current is not None and self._current[0] is Stage.DRAW
                self._move(done, total, f"{done} of {total} pictures" if drawing else f"{done / 1e6:.1f} MB")
            case Trained():
                self._trained(event)
            case Spending():
                self._spending(event)
            case Collected(path=path, size=size):
                self._line(f"Home and verified: {path} ({size / 1e6:.2f} MB)")
            case Notice(message=message, warning=warning):
                self._line(message, "yellow" if warning else "dim")
            case JobBegun(name=name, number=number, of=of):
                self._line(f"Job {number} of {of}: {name}", "bold")
            case JobOver(name=name, state=state, why=why):
                self._line(f"{name}: {state}{f', {why}' if why else ''}", "green" if state == "done" else "yellow")
            case Gone(ref=ref):
                self._line(f"{ref} is destroyed and confirmed absent.", "green")

    def _line(self, text: str, style: str = "") -> None:
        self._bars.console.print(text, style=style or None, soft_wrap=True)

    def _started(self, event: StageStarted) -> None:
        if self._current is not None and self._current[0] is event.stage:
            self._bars.update(self._current[1], total=event.total, note=event.message)
            return
        if event.stage is Stage.COLLECT:
            return  # comes in the middle of training and is over in a moment; its file gets a line
        self._finish()
        task = self._bars.add_task(_LABELS[event.stage], total=event.total, note=event.message)
        self._current = (event.stage, task)
        if self._bars.disable:
            self._line(f"{_LABELS[event.stage]}: {event.message}")

    def _finish(self) -> None:
        if self._current is not None:
            self._bars.remove_task(self._current[1])
            self._current = None

    def _move(self, done: int, total: int | None, note: str) -> None:
        if self._current is not None and self._current[0] is not Stage.TRAIN:
            self._bars.update(self._current[1], completed=done, total=total, note=note)

    def _trained(self, event: Trained) -> None:
        note = (
            f"epoch {event.epoch}/{event.epochs}, step {event.step}/{event.total}, loss={_loss(event.avg_loss)}, "
            f"{event.it_s:.2f} it/s, {event.peak_mem_mb / 1024:.1f} GB"
        )
        if self._current is not None and self._current[0] is Stage.TRAIN:
            self._bars.update(self._current[1], completed=event.step, total=event.total, note=note)
        if self._bars.disable and (self._due() or event.step == event.total):
            self._line(note)

    def _spending(self, event: Spending) -> None:
        left = duration(max(0.0, event.soft_deadline - time.time()))
        note = f"{shown(event.spent)} of {event.budget.rounded()}; training stops by itself in {left} at the latest"
        if self._money is None:
            self._money = self._bars.add_task("Money", total=event.budget.micros, note=note)
        self._bars.update(self._money, completed=event.spent.micros, note=note)

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._spoken < QUIET_EVERY_S:
            return False
        self._spoken = now
        return True


class JsonView:
    """One JSON object a line on standard output; amounts are micro-dollars."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, event: Event) -> None:
        """Print one event."""
        print_json_line(_EVENTS[type(event)], _fields(event))


_EVENTS: dict[type[Event], str] = {
    Rented: "rented", StageStarted: "stage", StageMoved: "moved", Trained: "step", Spending: "spending",
    Collected: "collected", Notice: "notice", Gone: "gone", JobBegun: "job", JobOver: "job_over",
}  # fmt: skip


def _fields(value: Any) -> dict[str, Any]:
    pairs = ((one.name, getattr(value, one.name)) for one in dataclasses.fields(value))
    return {f"{name}_micros" if isinstance(part, Usd) else name: _plain(part) for name, part in pairs}


def _plain(value: Any) -> Any:
    if isinstance(value, Usd):
        return value.micros
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON knows neither NaN nor infinity
    if dataclasses.is_dataclass(value):
        return _fields(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _loss(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"
