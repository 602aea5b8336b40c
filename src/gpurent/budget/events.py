"""What the ledger records: one kind and one strict payload for every step of a run.

Amounts are integer micro-dollars, times are Unix seconds, sizes are bytes. ``bytes_in`` and ``bytes_out`` are
*running totals of the rental* (what the host pulls by itself included), so that a repeated report changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, ValidationError

from gpurent.budget.errors import LedgerError
from gpurent.model import Charges, Endpoint, Offer, Price, Workload

JSON: TypeAlias = JsonValue
Count = Annotated[int, Field(ge=0)]


class Kind(StrEnum):
    """Every step that is worth surviving a crash."""

    RUN_OPENED = "run_opened"
    INTENT = "intent"
    CREATED = "created"
    CREATE_REFUSED = "create_refused"
    CREATE_UNCLEAR = "create_unclear"
    ADOPTED = "adopted"
    REACHABLE = "reachable"
    PREPARED = "prepared"
    JOB_STARTED = "job_started"
    PROGRESS = "progress"
    CHECKPOINT_HOME = "checkpoint_home"
    REPLANNED = "replanned"
    JOB_DONE = "job_done"
    JOB_FAILED = "job_failed"
    STOP_REQUESTED = "stop_requested"
    DESTROY_SENT = "destroy_sent"
    DESTROY_ACCEPTED = "destroy_accepted"
    DESTROY_FAILED = "destroy_failed"
    SEEN_ABSENT = "seen_absent"
    GONE = "gone"
    METERED = "metered"
    MACHINE_FAILED = "machine_failed"
    CHARGED = "charged"
    RUN_CLOSED = "run_closed"
    JOB_CLAIMED = "job_claimed"
    JOB_RELEASED = "job_released"
    JOB_ADDED = "job_added"
    IDLE = "idle"
    IDLE_OVER = "idle_over"
    NOTE = "note"


OF_A_RUN = frozenset({Kind.RUN_OPENED, Kind.RUN_CLOSED, Kind.JOB_CLAIMED, Kind.JOB_RELEASED, Kind.JOB_ADDED})
"""Kinds that never carry a tag."""
OF_EITHER = frozenset({Kind.STOP_REQUESTED, Kind.NOTE, Kind.IDLE})
"""Kinds that may be about a rental or about the whole run; all others need a tag."""
BY_CLIENT = frozenset({
    Kind.RUN_OPENED, Kind.INTENT, Kind.CREATED, Kind.CREATE_REFUSED, Kind.CREATE_UNCLEAR, Kind.REACHABLE, Kind.PREPARED,
    Kind.JOB_STARTED, Kind.PROGRESS, Kind.CHECKPOINT_HOME, Kind.REPLANNED, Kind.JOB_DONE, Kind.JOB_FAILED,
    Kind.JOB_CLAIMED, Kind.JOB_RELEASED, Kind.JOB_ADDED, Kind.IDLE, Kind.IDLE_OVER,
})  # fmt: skip
"""Signs of life: only the process that conducts a run writes them. A reaper elsewhere may write the others."""


@dataclass(frozen=True, slots=True)
class Event:
    """One committed line of the ledger; ``seq`` orders all lines of all runs."""

    seq: int
    at: float
    run_id: str
    tag: str | None
    kind: Kind
    data: Mapping[str, JSON]


class Payload(BaseModel):
    """The data of an event. ``detail`` is free; any other unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = ""
    detail: dict[str, JSON] = Field(default_factory=dict)


class Client(BaseModel):
    """The process that conducts a run: ``start`` tells it from a later process with the same number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    start: FiniteFloat
    host: str
    place: str = ""
    """Which state folder, the same name nowhere else; empty where that was not recorded."""
    clock_offset: FiniteFloat | None = None
    """The services' time minus its own in seconds, where a service had answered."""


class RunOpened(Payload):
    """A budget is reserved."""

    name: str
    budget_micros: Count
    config: dict[str, JSON] = Field(default_factory=dict)
    data_dir: Path | None = None
    output_dir: Path
    workload: Workload | None = None
    client: Client


class Intent(Payload):
    """``create`` is about to be sent, once, under this tag."""

    provider: str
    offer: Offer
    price: Price
    disk_gb: Count
    hourly_micros: Count
    reserved_micros: Count
    soft_deadline: FiniteFloat
    hard_deadline: FiniteFloat
    granularity_s: Annotated[int, Field(ge=1)] = 1
    minimum_s: Count = 0
    account: str | None = None
    """Id of the account that rents; empty where the provider does not tell. None: nobody recorded it yet."""
    clock_offset: FiniteFloat | None = None
    """As ``Client.clock_offset``, measured now."""


class Created(Payload):
    """The provider named the instance (``CREATED``), or it was found by its tag (``ADOPTED``)."""

    ref: str
    created_at: FiniteFloat | None = None
    hourly_micros: Count | None = None
    """What the provider says it costs now, where that differs from the offer."""
    account: str | None = None
    """That showed it, where the intent could not tell which one would rent."""


class Unclear(Payload):
    """The answer to ``create`` is lost or cannot be understood; ``ref`` where the reply named one."""

    ref: str | None = None


class Reached(Payload):
    """SSH answered. ``guards`` are the layers that will stop the rental."""

    endpoint: Endpoint | None = None
    guards: tuple[str, ...] = ()


class Traffic(Payload):
    """Running totals of what crossed the rental's network."""

    bytes_in: Count = 0
    bytes_out: Count = 0


class Metered(Traffic):
    """A look at what the provider counts while the rental runs, whatever caused it."""

    hourly_micros: Count | None = None
    """What it says the machine costs now, GPU and disk."""


class JobStarted(Traffic):
    """The engine works on one LoRA. A rental may train several, one after the other."""

    job_id: str
    name: str = ""
    key: str = ""
    """Digest of everything that decides the result; empty in lines from before it was recorded."""


class ProgressMade(Traffic):
    """The latest report of the engine; a loss that is not a number is stored as null."""

    job_id: str = ""
    step: Count
    total: Count
    epoch: Count = 0
    epochs: Count = 0
    loss: float | None = None
    avg_loss: float | None = None
    it_s: float | None = None
    peak_mem_mb: float | None = None
    elapsed_s: float | None = None


class CheckpointHome(Traffic):
    """A file is at home and its digest verified."""

    path: Path
    size: Count
    sha256: str
    job_id: str = ""
    final: bool = False
    step: Count = 0
    epoch: Count = 0


class Replanned(Traffic):
    """The job will not fit: the engine is told to take fewer steps."""

    job_id: str
    steps: Count
    epochs: Count


class JobEnded(Traffic):
    """The engine is done and everything it made is home (``JOB_DONE``), or it gave up (``JOB_FAILED``)."""

    job_id: str
    code: str = ""


class Destroy(Payload):
    """A step of destroying; ``ref`` where it is not the rental's own (a twin under the same tag)."""

    ref: str | None = None
    shown: bool = False
    """A listing showed the machine when the order was sent."""


class Seen(Payload):
    """What one complete listing showed; ``boot`` and ``uptime_s`` say when it was asked for, by a clock nobody sets."""

    ref: str | None = None
    boot: str = ""
    uptime_s: FiniteFloat = 0.0


class Gone(Payload):
    """Confirmed absent. ``ended_at`` where the provider tells when billing ended."""

    ended_at: FiniteFloat | None = None


class Charged(Payload):
    """What the provider says it billed."""

    charges: Charges


class RunClosed(Payload):
    """Nothing more happens in this run; ``outcome`` is one word such as ``done``."""

    outcome: str
    exit_code: int = 0


class Claim(Payload):
    """A run is to train a job, and nobody else meanwhile (``JOB_CLAIMED``), or will not (``JOB_RELEASED``)."""

    key: str
    """Digest of everything that decides the result, as in ``JOB_STARTED``."""
    name: str = ""


class JobAdded(Payload):
    """A session is to train one job more."""

    name: str
    plan: dict[str, JSON]
    """What somebody who takes the run over has to know of it, as ``config["jobs"]`` of a batch holds it."""


class Idle(Payload):
    """An open session has no job. With a tag its machine waits; the line is repeated as a sign of life."""

    until: FiniteFloat | None = None
    """Unix seconds at which the machine is terminated."""


class Note(Payload):
    """For the reader of the ledger."""

    message: str = ""


PAYLOADS: Mapping[Kind, type[Payload]] = {
    Kind.RUN_OPENED: RunOpened,
    Kind.INTENT: Intent,
    Kind.CREATED: Created,
    Kind.CREATE_REFUSED: Payload,
    Kind.CREATE_UNCLEAR: Unclear,
    Kind.ADOPTED: Created,
    Kind.REACHABLE: Reached,
    Kind.PREPARED: Traffic,
    Kind.JOB_STARTED: JobStarted,
    Kind.PROGRESS: ProgressMade,
    Kind.CHECKPOINT_HOME: CheckpointHome,
    Kind.REPLANNED: Replanned,
    Kind.JOB_DONE: JobEnded,
    Kind.JOB_FAILED: JobEnded,
    Kind.STOP_REQUESTED: Payload,
    Kind.DESTROY_SENT: Destroy,
    Kind.DESTROY_ACCEPTED: Destroy,
    Kind.DESTROY_FAILED: Destroy,
    Kind.SEEN_ABSENT: Seen,
    Kind.GONE: Gone,
    Kind.METERED: Metered,
    Kind.MACHINE_FAILED: Payload,
    Kind.CHARGED: Charged,
    Kind.RUN_CLOSED: RunClosed,
    Kind.JOB_CLAIMED: Claim,
    Kind.JOB_RELEASED: Claim,
    Kind.JOB_ADDED: JobAdded,
    Kind.IDLE: Idle,
    Kind.IDLE_OVER: Payload,
    Kind.NOTE: Note,
}

P = TypeVar("P", bound=Payload)


def encode(kind: Kind, data: Mapping[str, object]) -> str:
    """Check ``data`` against its kind and write it as JSON. Values may be our own (``Offer``, ``Path``) or JSON.

    Raises:
        LedgerError: a key is missing, unknown or of the wrong type.
    """
    try:
        payload = PAYLOADS[kind].model_validate(data)
    except ValidationError as error:
        raise LedgerError(f"{kind} cannot be recorded: {_explain(error)}") from error
    return payload.model_dump_json(exclude_defaults=True)


def decode(text: str) -> Mapping[str, JSON]:
    """Read what ``encode`` wrote. Raises LedgerError."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise LedgerError(f"the ledger holds a line that is not JSON: {text[:80]!r}") from error
    if not isinstance(data, dict):
        raise LedgerError(f"the ledger holds a line that is not an object: {text[:80]!r}")
    return data


def payload(event: Event, model: type[P]) -> P:
    """Return the typed data of ``event``. Raises LedgerError if it is not what ``model`` describes."""
    try:
        return model.model_validate(event.data)
    except ValidationError as error:
        raise LedgerError(f"line {event.seq} ({event.kind}) cannot be read: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
