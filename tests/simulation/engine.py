"""What the engine would have written by now: its event stream as a function of time."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpurent_engine import sheet

STATE = "state.safetensors"


def step_of(state: bytes) -> int:
    """At which step a state was written."""
    return int(state[-32:])


@dataclass(frozen=True)
class Course:
    """How a training goes, decided beforehand."""

    steps: int
    step_s: float
    every: int
    """Steps between checkpoints."""
    size: int
    """Bytes of a checkpoint."""
    fails_at: int | None = None
    """The engine reports an error at this step."""
    hangs_at: int | None = None
    """It says nothing more from this step on, and its process lives."""
    dies_at: int | None = None
    """Its process is gone at this step, without a word."""


@dataclass
class Engine:
    """One training on one host."""

    course: Course
    name: str
    started: float
    epochs: int
    stop_at: float | None = None
    shorter: int | None = None
    """What the steps were cut down to."""
    from_step: int = 0
    """What it goes on from."""
    files: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """Content and time of writing, by name."""
    steps: int = 0
    _lines: list[str] = field(default_factory=list)
    _step: int = 0
    _status: int | None = None
    _begun: bool = False

    def __post_init__(self) -> None:
        self.steps = self.course.steps
        self._step = self.from_step

    def advance(self, now: float) -> None:
        """Write what happened up to ``now``."""
        if not self._begun:
            self._begun = True
            self._say(event="hello", protocol=1, engine="sim", torch="0", device="cuda", device_name="virtual")
            self._say(event="plan", images=4, total_steps=self.course.steps, epochs=self.epochs,
                      start_step=self.from_step)  # fmt: skip
        while self._status is None:
            due = self.started + (self._step - self.from_step + 1) * self.course.step_s
            if self.shorter is not None and self._step < self.shorter < self.steps:
                self.steps = self.shorter
                self._say(event="replanned", steps=self.steps, epochs=self.epochs)
            if self.stop_at is not None and self.stop_at <= min(due, now):
                self._checkpoint(self.stop_at, final=False)
                self._done(stopped=True)
                return
            if due > now or self._step == self.course.hangs_at:
                return
            self._one(due)

    def _one(self, due: float) -> None:
        self._step += 1
        if self._step == self.course.dies_at:
            self._status = 137
            return
        if self._step == self.course.fails_at:
            self._say(event="error", code="nan", message="the loss is not a number", remedy="lower the rate")
            self._status = 1
            return
        if self._step % max(1, self.course.steps // 8) == 0:
            self._say(event="step", step=self._step, total=self.steps, epoch=1, epochs=self.epochs, loss=0.1,
                      avg_loss=0.1, it_s=1 / self.course.step_s, elapsed_s=due - self.started)  # fmt: skip
        if self._step == self.steps:
            self._checkpoint(due, final=True)
            self._done(stopped=False)
        elif self._step % self.course.every == 0:
            self._checkpoint(due, final=False)

    def _checkpoint(self, at: float, *, final: bool) -> None:
        name = f"{self.name}.safetensors" if final else f"{self.name}-step{self._step:08d}.safetensors"
        data = _lora(hashlib.sha256(f"{self.name}{self._step}".encode()).digest() * (self.course.size // 32))
        self.files[name] = (data, at)
        self._say(event="checkpoint", path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data),
                  step=self._step, epoch=1, final=final)  # fmt: skip
        state = _lora(f"{self._step:032d}".encode() * (4 * self.course.size // 32))
        self.files[STATE] = (state, at)
        self._say(event="state", path=STATE, sha256=hashlib.sha256(state).hexdigest(), size=len(state),
                  step=self._step)  # fmt: skip

    def _done(self, *, stopped: bool) -> None:
        self._say(event="done", steps=self._step, stopped=stopped, final_loss=0.1)
        self._status = 0

    def _say(self, **record: object) -> None:
        self._lines.append(json.dumps(record) + "\n")

    def kill(self, now: float) -> None:
        """Its process is gone, without a word."""
        if self.working(now):
            self._status = -1

    @property
    def reached(self) -> int:
        """Steps that it has taken, those before it was begun included."""
        return self._step

    @property
    def log(self) -> bytes:
        """All lines so far."""
        return "".join(self._lines).encode()

    def status(self) -> int | None:
        """As ``Host.job_status``."""
        return self._status

    def working(self, now: float) -> bool:
        """Whether its process is there."""
        self.advance(now)
        return self._status is None


@dataclass
class Easel:
    """The drawing of one grid, beside the training of whose LoRA it is."""

    order: Mapping[str, Any]
    """As the client wrote it."""
    started: float
    takes_s: float
    files: dict[str, tuple[bytes, float]]
    """Of the training."""
    name: str
    """Of the LoRA."""
    stop_at: float | None = None
    shorter: int | None = None
    _lines: list[str] = field(default_factory=list)
    _status: int | None = None

    def advance(self, now: float) -> None:
        """Write what happened up to ``now``."""
        if not self._lines:
            self._say(event="drawing", done=0, total=4)
        if self._status is not None or now < self.started + min(self.takes_s, self.order["within_s"]):
            return
        if self.takes_s > self.order["within_s"]:
            self._say(event="error", code="slow", message="it would take too long")
            self._status = 1
            return
        width, height = sheet.size(len(self.order["rows"]), 1 + len(self.order["strengths"]))
        data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + bytes(4096)
        self.files[self.order["picture"]] = (data, self.started + self.takes_s)
        digest = hashlib.sha256(data).hexdigest()
        self._say(event="grid", path=self.order["picture"], sha256=digest, size=len(data))
        self._status = 0

    def _say(self, **record: object) -> None:
        self._lines.append(json.dumps(record) + "\n")

    def kill(self, now: float) -> None:
        """Its process is gone, without a word."""
        if self.working(now):
            self._status = -1

    @property
    def reached(self) -> int:
        """It takes no steps."""
        return 0

    @property
    def log(self) -> bytes:
        """All lines so far."""
        return "".join(self._lines).encode()

    def status(self) -> int | None:
        """As ``Host.job_status``."""
        return self._status

    def working(self, now: float) -> bool:
        """Whether its process is there."""
        self.advance(now)
        return self._status is None


def _lora(weights: bytes) -> bytes:
    """A safetensors file of one tensor."""
    header = json.dumps(
        {"lora_x": {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + weights
