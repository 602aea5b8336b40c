"""The engine's events as they arrive from a stranger's host: schema-checked, size-capped, never trusted.

The engine writes one JSON object a line (``docs/reference/events.md``). Unknown kinds and fields are ignored, so that
an older client can follow a newer engine of the same protocol; a line that breaks the schema is an error.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gpurent.errors import TransferFailed

PROTOCOL = 1
MAX_FILE_BYTES = 8 * 1024**3
"""No LoRA or resume state is larger; a host that announces more is lying or broken."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


def safe_relative(path: str) -> str:
    """Accept a relative POSIX path of plain names only; everything else raises ValueError."""
    parts = PurePosixPath(path).parts
    if not parts or len(parts) > 3 or any(not _SAFE_NAME.fullmatch(part) for part in parts) or "\\" in path:
        raise ValueError(f"{path!r} is not a plain relative file name")
    return path


def plain(text: str) -> str:
    """Drop control characters, so that a host cannot drive the user's terminal."""
    return _CONTROL.sub("", text)


def _digest(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError("a sha256 digest has 64 hex digits")
    return text


Text = Annotated[str, Field(max_length=4000), AfterValidator(plain)]
RelativePath = Annotated[str, Field(max_length=300), AfterValidator(safe_relative)]
Digest = Annotated[str, AfterValidator(_digest)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

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
    name: Text


class Plan(_Event):
    """What will be done: counts of images, batches and steps."""

    event: Literal["plan"]
    images: Count = 0
    total_steps: Count
    epochs: Count = 0
    start_step: Count = 0
    network_params: Count = 0


class Step(_Event):
    """Progress of the optimiser; a loss that is no finite number arrives as null."""

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
    path: RelativePath
    sha256: Digest
    size: Size
    epoch: Count = 0
    step: Count = 0
    final: bool = False


class EngineWarning(_Event):
    """Something the user ought to know."""

    event: Literal["warning"]
    key: Text = ""
    message: Text


class EngineFault(_Event):
    """The engine gives up."""

    event: Literal["error"]
    code: Text
    message: Text
    remedy: Text = ""


class Done(_Event):
    """Last line."""

    event: Literal["done"]
    steps: Count = 0
    elapsed_s: float = 0.0
    stopped: bool = False
    final_loss: float | None = None


EngineEvent = Hello | PhaseStarted | Plan | Step | Checkpoint | EngineWarning | EngineFault | Done
_ADAPTER: TypeAdapter[EngineEvent] = TypeAdapter(Annotated[EngineEvent, Field(discriminator="event")])
_KNOWN = frozenset(("hello", "phase", "plan", "step", "checkpoint", "warning", "error", "done"))


def parse(line: str) -> EngineEvent | None:
    """Read one line; None for a kind this version does not know.

    Raises:
        TransferFailed: no JSON object, a field of the wrong type, a path or digest that is not allowed.
    """
    try:
        record = json.loads(line)
    except ValueError as error:
        raise TransferFailed(f"the host sent an event that is not JSON: {plain(line[:80])!r}") from error
    if not isinstance(record, dict):
        raise TransferFailed("the host sent an event that is not an object")
    if record.get("event") not in _KNOWN:
        return None
    try:
        return _ADAPTER.validate_python(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TransferFailed(f"the host sent an event that breaks the protocol at {where}: {first['msg']}") from error
