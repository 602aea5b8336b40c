"""The engine's events as they arrive from a stranger's host: schema-checked, size-capped, never trusted.

The engine writes one JSON object a line (``docs/reference/events.md``). Unknown kinds and fields are ignored, so that
an older client can follow a newer engine of the same protocol; a line that breaks the schema is an error.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from gpurent.errors import BadHostData
from gpurent.untrusted.data import Malformed, fitted
from gpurent.untrusted.data import parse as parse_json
from gpurent.untrusted.text import clean
from gpurent.words import counted

PROTOCOL = 1
MAX_LINE = 64 * 1024
MAX_FILE_BYTES = 8 * 1024**3
"""No LoRA or resume state is larger, whatever the plan says."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _digest(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError("a sha256 digest has 64 hex digits")
    return text


Text = Annotated[str, AfterValidator(lambda text: clean(text, 1000))]
Word = Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,40}$")]
Name = Annotated[str, Field(max_length=300)]
"""Compared with the names of the plan, and used as a path only when it is among them."""
Digest = Annotated[str, AfterValidator(_digest)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    seq: Count = 0
    t: float = 0.0


class Hello(_Event):
    """First line: who runs there."""

    event: Literal["hello"]
    protocol: int
    engine: Text = ""
    torch: Text = ""
    device: Text = ""
    device_name: Text = ""


class PhaseStarted(_Event):
    """The engine enters a phase: load, cache, train, save, done."""

    event: Literal["phase"]
    name: Word


class Plan(_Event):
    """What will be done: counts of images, batches and steps."""

    event: Literal["plan"]
    images: Count = 0
    total_steps: Count
    epochs: Count = 0
    start_step: Count = 0
    network_params: Count = 0


class Step(_Event):
    """Progress of the optimiser; a loss that is not a finite number arrives as null."""

    event: Literal["step"]
    step: Count
    total: Count
    epoch: Count = 0
    epochs: Count = 0
    loss: float | None = None
    avg_loss: float | None = None
    lr: float = 0.0
    it_s: float = 0.0
    images_s: float = 0.0
    peak_mem_mb: float = 0.0
    elapsed_s: float = 0.0


class Checkpoint(_Event):
    """A complete LoRA file lies in the output folder."""

    event: Literal["checkpoint"]
    path: Name
    sha256: Digest
    size: Size
    epoch: Count = 0
    step: Count = 0
    final: bool = False


class State(_Event):
    """What the training goes on from lies in the output folder, in place of any earlier one."""

    event: Literal["state"]
    path: Name
    sha256: Digest
    size: Size
    step: Count = 0


class PartProof(BaseModel):
    """What the file adds to one part of the base."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    layers: Count
    norm: float


class Proof(_Event):
    """The engine has read a file again and compared it with what was trained and with the base."""

    event: Literal["proof"]
    path: Name
    ok: bool
    parts: Annotated[dict[Word, PartProof], Field(max_length=8)] = {}
    image_change: float | None = None

    @property
    def sentence(self) -> str:
        """For the user."""
        layers = " and ".join(f"{counted(one.layers, 'layer')} of the {part}" for part, one in self.parts.items())
        text = "The engine read the LoRA again: it has what was trained"
        text += f", {layers}" if layers else ""
        if self.image_change is not None:
            text += f"; with it a picture changes by {self.image_change:.1f} of 255"
        return f"{text}."


class Validation(_Event):
    """How far off the training is on pictures that it does not learn from."""

    event: Literal["validation"]
    step: Count
    epoch: Count = 0
    loss: float | None = None
    images: Count = 0
    best: bool = False
    """The lowest loss so far."""

    @property
    def sentence(self) -> str:
        """For the user."""
        loss = "is not a number" if self.loss is None else f"{self.loss:.4f}"
        best = ", the lowest so far" if self.best else ""
        return f"Step {self.step}: loss of {counted(self.images, 'held-out picture')} {loss}{best}."


class Verdict(_Event):
    """A word on how the training goes, with advice: it rises, stays flat, has no effect, is not a number."""

    event: Literal["verdict"]
    kind: Word
    step: Count = 0
    message: Text
    advice: Text = ""


class EarlyStop(_Event):
    """The training ends before its time, since held-out pictures get no better."""

    event: Literal["early_stop"]
    step: Count
    total: Count
    best_step: Count = 0
    best_loss: float | None = None

    @property
    def sentence(self) -> str:
        """For the user."""
        loss = "" if self.best_loss is None else f", with a loss of {self.best_loss:.4f}"
        return (
            f"Held-out pictures get no better: the training ends after step {self.step} of {self.total}. The finished "
            f"LoRA is that of step {self.best_step}{loss}."
        )


class SamplePicture(_Event):
    """A picture that was drawn on the way lies in the output folder."""

    event: Literal["sample"]
    path: Name
    sha256: Digest
    size: Size
    step: Count = 0
    epoch: Count = 0
    index: Count = 0
    prompt: Text = ""
    seed: int = 0


class Drawn(_Event):
    """So many pictures of a grid are drawn."""

    event: Literal["drawing"]
    done: Count
    total: Count


class GridPicture(_Event):
    """The grid is complete in the output folder."""

    event: Literal["grid"]
    path: Name
    sha256: Digest
    size: Size


class EngineWarning(_Event):
    """Something the user ought to know."""

    event: Literal["warning"]
    key: Text = ""
    message: Text


class EngineFault(_Event):
    """The engine gives up."""

    event: Literal["error"]
    code: Word
    message: Text
    remedy: Text = ""


class Done(_Event):
    """Last line."""

    event: Literal["done"]
    steps: Count = 0
    elapsed_s: float = 0.0
    stopped: bool = False
    final_loss: float | None = None


EngineEvent = (
    Hello | PhaseStarted | Plan | Step | Checkpoint | State | Proof | Validation | Verdict | EarlyStop | SamplePicture
    | EngineWarning | EngineFault | Done
)  # fmt: skip
_ADAPTER: TypeAdapter[EngineEvent] = TypeAdapter(Annotated[EngineEvent, Field(discriminator="event")])
_KNOWN = frozenset((
    "hello", "phase", "plan", "step", "checkpoint", "state", "proof", "validation", "verdict", "early_stop", "sample",
    "warning", "error", "done",
))  # fmt: skip
GridEvent = Drawn | GridPicture | EngineFault
_OF_A_GRID: TypeAdapter[GridEvent] = TypeAdapter(Annotated[GridEvent, Field(discriminator="event")])
E = TypeVar("E")


def parse(line: str) -> EngineEvent | None:
    """Read one line of a training; None for a kind this version does not know.

    Raises:
        BadHostData: no JSON object, a field of the wrong type, a number or digest that is not allowed.
    """
    return _parse(line, _ADAPTER, _KNOWN)


def parse_grid(line: str) -> GridEvent | None:
    """The same for a grid that is drawn."""
    return _parse(line, _OF_A_GRID, frozenset(("drawing", "grid", "error")))


def _parse(line: str, adapter: TypeAdapter[E], known: frozenset[str]) -> E | None:
    try:
        record = parse_json(line, most=MAX_LINE)
        kind = record.get("event") if isinstance(record, dict) else None
        if not isinstance(kind, str):
            raise Malformed("no object with an event")
        return fitted(adapter, record) if kind in known else None
    except Malformed as error:
        raise BadHostData(f"the host sent an event that cannot be read: {error}") from error
