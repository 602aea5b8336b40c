"""What one training is expected to send home, by its plan: names, number and size of files, number of events. Pure.

Nothing beyond that is accepted from a host. It is kept in the ledger, for a process that takes the run over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from pydantic import JsonValue

from gpurent_engine.filenames import epoch_name, final_name, step_name

MIB = 1024 * 1024
EVENT_BYTES = 1024
"""Of an event on average; reports of steps have about 350."""
OTHER_EVENTS = 2000
"""Phases, warnings, and kinds that a newer engine may add."""
EVENTS_PER_FILE = 20


@dataclass(frozen=True, slots=True)
class Expected:
    """Bounds on what one job may send."""

    name: str
    """Of the LoRA."""
    steps: int
    epochs: int
    every_epochs: int | None
    """Epochs between checkpoints; None: none but the last."""
    every_steps: int | None
    file_bytes: int
    """Largest size of one LoRA file."""

    @property
    def final(self) -> str:
        """The file without which a training is not done."""
        return final_name(self.name)

    @property
    def planned(self) -> frozenset[str]:
        """Names of all files that an undisturbed training writes."""
        epochs = range(self.every_epochs, self.epochs + 1, self.every_epochs) if self.every_epochs else ()
        steps = range(self.every_steps, self.steps + 1, self.every_steps) if self.every_steps else ()
        return frozenset((
            self.final,
            *(epoch_name(self.name, epoch) for epoch in epochs),
            *(step_name(self.name, step) for step in steps),
        ))  # fmt: skip

    def stopped_at(self, step: int) -> str:
        """What a training that is stopped after ``step`` writes instead of the final file."""
        return step_name(self.name, step)

    @property
    def events(self) -> int:
        """Most lines of events. Each step is reported once at most; a resumed engine may report it again."""
        return 2 * self.steps + EVENTS_PER_FILE * (len(self.planned) + 1) + OTHER_EVENTS

    @property
    def event_bytes(self) -> int:
        """Most bytes of events."""
        return MIB + self.events * EVENT_BYTES

    def kept(self) -> dict[str, JsonValue]:
        """For the ledger."""
        return asdict(self)

    @classmethod
    def of(cls, config: Mapping[str, JsonValue], name: str) -> Self:
        """Read what ``kept`` wrote into a run's configuration; a run of an older gpurent may save at every step."""
        found = config.get("expected")
        if not isinstance(found, dict):
            return cls(name, 10_000, 1000, 1, 1, 1024 * MIB)

        def number(key: str) -> int | None:
            value = found.get(key)
            return value if isinstance(value, int) else None

        return cls(
            name, number("steps") or 0, number("epochs") or 0, number("every_epochs"), number("every_steps"),
            number("file_bytes") or 0,
        )  # fmt: skip
