"""What to do when the measured speed says that the job will not fit into the budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gpurent.budget.events import Kind
from gpurent.clock import Clock
from gpurent.jobs.events import Step
from gpurent.jobs.home import Home
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.model import OnOverrun
from gpurent.plan.overrun import Overrun, overrun


class Asker(Protocol):
    """Asks a person without waiting for the answer: training, and its bill, go on."""

    def ask(self, question: str) -> None:
        """Put the question, once."""
        ...

    def answer(self) -> str | None:
        """What was answered; None so far."""
        ...


class Nobody:
    """There is no one to ask."""

    def ask(self, question: str) -> None:
        """Nothing to do."""

    def answer(self) -> str | None:
        """The budget decides."""
        return "stop"


@dataclass
class Replanner:
    """Looks at every report of the engine; says once that it will not fit, and shortens it if that was chosen."""

    choice: OnOverrun
    soft: Callable[[], float]
    clock: Clock
    tell: Tell
    asker: Asker = field(default_factory=Nobody)
    _told: bool = field(default=False, init=False)
    _ordered: int | None = field(default=None, init=False)

    def wanted(self, step: Step, skipped: int = 0) -> Overrun | None:
        """The shorter training to order now, if any; ``skipped`` of its epochs are not trained."""
        found = overrun(
            step=step.step, total=step.total, epochs=step.epochs - skipped, it_s=step.it_s, elapsed_s=step.elapsed_s,
            now=self.clock.now(), soft=self.soft(),
        )  # fmt: skip
        if found is None or (self._ordered is not None and step.total > self._ordered):
            return None  # it fits, or the last order has not reached the engine yet
        if not self._told:
            self._told = True
            self._say(found)
        if self.choice == "stop" or (self.choice == "ask" and self.asker.answer() != "shrink"):
            return None
        return found if found.steps > step.step else None

    def ordered(self, found: Overrun) -> None:
        """The engine was told: nothing more is wanted until it has obeyed. Until this is said, the same is wanted."""
        self._ordered = found.steps

    def _say(self, found: Overrun) -> None:
        late = f"At this speed {found.total} steps end {found.late_s / 60:.1f} minutes after the budget's deadline"
        shorter = f"{found.steps} steps ({found.epochs} epochs) would fit"
        if self.choice == "shrink":
            self.tell(Notice(f"{late}: shortened to {found.steps} steps ({found.epochs} epochs).", warning=True))
        else:
            self.tell(Notice(f"{late}; {shorter}. Training ends at the deadline, and is saved.", warning=True))
        if self.choice == "ask":
            self.asker.ask(f"Shorten to {found.epochs} epochs, with the learning rate's curve to match? [y/N] ")


def shorten(home: Home, found: Overrun) -> None:
    """Order the engine to end earlier. Raises HostUnreachable.

    The ledger hears of it first, if it can: only reports depend on that line, and a training that is not shortened
    because a disk is full loses its end.
    """
    home.mention(
        Kind.REPLANNED, steps=found.steps, epochs=found.epochs,
        reason=f"{found.total} steps would have ended {found.late_s:.0f} s too late",
    )  # fmt: skip
    home.host.put_bytes(json.dumps({"steps": found.steps}).encode(), f"{home.folder}/plan.json")
