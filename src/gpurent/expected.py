"""What one training is expected to send home, by its plan: names, number and size of files, number of events. Pure.

Nothing beyond that is accepted from a host. It is kept in the ledger, for a process that takes the run over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Self

from pydantic import JsonValue

from gpurent_engine.filenames import best_name, epoch_name, final_name, sample_name, step_name

MIB = 1024 * 1024
EVENT_BYTES = 1024
"""Of an event on average; reports of steps have about 350."""
OTHER_EVENTS = 2000
"""Phases, warnings, and kinds that a newer engine may add."""
EVENTS_PER_FILE = 20
PIXEL_BYTES = 4
"""A picture without any compression has three, and a little around them."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Sample pictures that a training draws on its way."""

    count: int = 0
    """At one time."""
    every_epochs: int | None = None
    every_steps: int | None = None
    first: bool = False
    pixels: int = 0
    """Of the largest."""

    def names(self, name: str, steps: int, epochs: int) -> frozenset[str]:
        """Their files, below the output folder."""
        times = [(0, True)] if self.first else []
        if self.every_epochs:
            times += [(at, True) for at in range(self.every_epochs, epochs + 1, self.every_epochs)]
        elif self.every_steps:
            times += [(at, False) for at in range(self.every_steps, steps + 1, self.every_steps)]
        return frozenset(
            f"{SAMPLES}/{sample_name(name, at, index, by_epoch=by_epoch)}"
            for at, by_epoch in times
            for index in range(self.count)
        )


SAMPLES = "sample"
"""Folder of sample pictures, as in kohya's trainer."""


@dataclass(frozen=True)
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
    best: bool = False
    """Whether the LoRA that does best on held-out pictures is kept."""
    pictures: Pictures = Pictures()
    skipped: int = 0
    """Epochs before the first."""

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
            *([best_name(self.name)] if self.best else []),
            *(epoch_name(self.name, epoch) for epoch in epochs if epoch > self.skipped),
            *(step_name(self.name, step) for step in steps),
        ))  # fmt: skip

    @cached_property
    def samples(self) -> frozenset[str]:
        """Names of all sample pictures."""
        return self.pictures.names(self.name, self.steps, self.epochs)

    @property
    def sample_bytes(self) -> int:
        """Largest size of one of them."""
        return self.pictures.pixels * PIXEL_BYTES + MIB

    def stopped_at(self, step: int) -> str:
        """What a training that is stopped after ``step`` writes instead of the final file."""
        return step_name(self.name, step)

    @property
    def events(self) -> int:
        """Most lines of events. Each step is reported once at most; a resumed engine may report it again."""
        files = len(self.planned) + len(self.samples) + 1
        return 2 * self.steps + EVENTS_PER_FILE * files + OTHER_EVENTS

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
            return cls(name=name, steps=10_000, epochs=1000, every_epochs=1, every_steps=1, file_bytes=1024 * MIB)

        def number(key: str) -> int | None:
            value = found.get(key)
            return value if isinstance(value, int) else None

        return cls(
            name=name,
            steps=number("steps") or 0,
            epochs=number("epochs") or 0,
            every_epochs=number("every_epochs"),
            every_steps=number("every_steps"),
            file_bytes=number("file_bytes") or 0,
            best=found.get("best") is True,
            pictures=_pictures(found.get("pictures")),
            skipped=number("skipped") or 0,
        )


def _pictures(found: JsonValue) -> Pictures:
    """As kept in the ledger; a run of an older gpurent draws none."""
    if not isinstance(found, dict):
        return Pictures()
    every = [value if isinstance(value := found.get(key), int) else None for key in ("every_epochs", "every_steps")]
    count, pixels = (value if isinstance(value := found.get(key), int) else 0 for key in ("count", "pixels"))
    return Pictures(count, every[0], every[1], found.get("first") is True, pixels)
