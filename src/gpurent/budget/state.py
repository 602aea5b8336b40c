"""What the ledger's lines add up to: pure folds from events to runs and rentals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from gpurent.budget import events as lines
from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Event, Kind
from gpurent.model import Charges, Endpoint, Offer, Workload
from gpurent.money import ZERO, Usd


class RentalState(StrEnum):
    """Where a rental stands. Everything but REFUSED and GONE may cost money."""

    INTENT = "intent"
    UNCLEAR = "unclear"
    CREATED = "created"
    REACHABLE = "reachable"
    TRAINING = "training"
    DESTROYING = "destroying"
    GONE = "gone"
    REFUSED = "refused"

    @property
    def over(self) -> bool:
        """Whether nothing can run or bill any more."""
        return self in (RentalState.GONE, RentalState.REFUSED)


@dataclass(frozen=True, slots=True)
class RentalJob:
    """One job on one rental, from the engine's start to its end."""

    id: str
    name: str = ""
    key: str = ""
    """Digest of everything that decides the result; empty where it was not recorded."""
    started_at: float = 0.0
    over_at: float | None = None
    failed: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Idle:
    """A time in which the machine of a session had no job. Unix seconds."""

    since: float
    until: float
    """When the machine is terminated if no job comes."""
    over_at: float | None = None


@dataclass(frozen=True, slots=True)
class Rental:
    """One instance from intent to confirmed gone."""

    tag: str
    run_id: str
    provider: str
    offer: Offer
    disk_gb: int
    hourly: Usd
    reserved: Usd
    state: RentalState
    intent_at: float
    soft_deadline: float
    hard_deadline: float
    granularity_s: int = 1
    minimum_s: int = 0
    ref: str | None = None
    created_at: float | None = None
    gone_at: float | None = None
    endpoint: Endpoint | None = None
    jobs: tuple[RentalJob, ...] = ()
    """In the order in which they were started."""
    idle: tuple[Idle, ...] = ()
    """Between the jobs of a session, in order."""
    absent_count: int = 0
    """Complete listings in a row without it, counted from the last accepted order to destroy."""
    absent_since: Mapping[str, float] = field(default_factory=dict)
    """When the first of them was asked for: seconds of uptime, by the start of the computer that asked."""
    seen: bool = False
    """A listing showed it or SSH answered: only then does its absence mean something at once."""
    destroy_accepted: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    charged: Charges | None = None
    charged_at: float | None = None
    """Since when the provider's bill has had this total."""
    alive_at: float = 0.0
    """The last moment at which the machine is known to have existed."""
    why: str = ""
    replanned_steps: int | None = None
    """What the job was shortened to."""
    failed_at: float | None = None
    """When its machine turned out to be of no use, before it trained."""
    failure: str = ""
    trait: str = ""
    """By which trait of its machine or image, as ``HostUnfit`` names them."""
    metered_at: float | None = None
    """When somebody last looked at what its provider counts."""
    account: str | None = None
    """That rented it; empty where its provider did not tell, None in ledgers from before accounts were recorded."""
    clock_offset: float = 0.0
    """The service's time minus that of the computer that rented, in seconds; 0 where nobody knew."""

    @property
    def job_id(self) -> str | None:
        """Of the job that was started last."""
        return self.jobs[-1].id if self.jobs else None

    @property
    def job_over(self) -> bool:
        """Whether that job has ended, so that nothing on the machine is worth fetching."""
        return bool(self.jobs) and self.jobs[-1].over_at is not None


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file that came home."""

    path: Path
    size: int
    sha256: str
    final: bool
    step: int
    epoch: int
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """The engine's latest report."""

    at: float
    step: int
    total: int
    epoch: int
    epochs: int
    avg_loss: float | None
    it_s: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One ``train``: a budget, the rentals it paid for and the files it brought."""

    id: str
    name: str
    opened_at: float
    budget: Usd
    config: Mapping[str, lines.JSON]
    output_dir: Path
    client: lines.Client
    workload: Workload | None = None
    rentals: tuple[Rental, ...] = ()
    artefacts: tuple[Artefact, ...] = ()
    last_progress: ProgressPoint | None = None
    stop_requested: bool = False
    outcome: str | None = None
    closed_at: float | None = None
    anomalies: tuple[str, ...] = ()
    heard_at: float = 0.0
    """When its client wrote its last line."""
    clock_offset: float | None = None
    """The services' time minus the client's in seconds, as measured last; None where nobody recorded it."""
    data_dir: Path | None = None
    claims: frozenset[str] = frozenset()
    """Digests of the jobs that it is to train, and nobody else while it is open and its client alive."""

    @property
    def play(self) -> bool:
        """Whether it is about play money. Older ledgers do not say so; the sandbox's own name does."""
        told = self.config.get("play")
        if isinstance(told, bool):
            return told
        return bool(self.rentals) and all(one.provider == "sandbox" for one in self.rentals)

    @property
    def loras(self) -> tuple[Artefact, ...]:
        """The files of it that are no pictures."""
        return tuple(one for one in self.artefacts if one.path.suffix != ".png")

    @property
    def open_rentals(self) -> tuple[Rental, ...]:
        """Rentals that may still cost money."""
        return tuple(rental for rental in self.rentals if not rental.state.over)


def fold(history: Iterable[Event]) -> tuple[Run, ...]:
    """Add events up, oldest first. An impossible order never raises; it becomes an anomaly of its run."""
    runs: dict[str, Run] = {}
    for event in history:
        runs[event.run_id] = advance(runs.get(event.run_id), event)
    return tuple(runs.values())


def advance(run: Run | None, event: Event) -> Run:
    """What one more line makes of its run, None before its first. Never raises: see ``fold``."""
    try:
        if run is None:
            run = _opened(event) if event.kind is Kind.RUN_OPENED else _step(_unopened(event), event)
        else:
            run = _step(run, event)
    except LedgerError as error:
        run = _odd(run or _unopened(event), event, str(error))
    return replace(run, heard_at=event.at) if event.kind in lines.BY_CLIENT else run


def _unopened(event: Event) -> Run:
    """A run whose opening is missing: what it rented may cost money all the same."""
    nobody = lines.Client(pid=0, start=0.0, host="")
    return _odd(
        Run(id=event.run_id, name="", opened_at=event.at, budget=ZERO, config={}, output_dir=Path(), client=nobody),
        event,
        "before the run was opened",
    )


def _opened(event: Event) -> Run:
    data = lines.payload(event, lines.RunOpened)
    return Run(
        id=event.run_id,
        name=data.name,
        opened_at=event.at,
        budget=Usd(data.budget_micros),
        config=data.config,
        output_dir=data.output_dir,
        client=data.client,
        workload=data.workload,
        clock_offset=data.client.clock_offset,
        data_dir=data.data_dir,
    )


def _step(run: Run, event: Event) -> Run:
    match event.kind:
        case Kind.RUN_OPENED:
            return _odd(run, event, "twice")
        case Kind.RUN_CLOSED:
            return replace(run, outcome=lines.payload(event, lines.RunClosed).outcome, closed_at=event.at)
        case Kind.STOP_REQUESTED:
            return replace(run, stop_requested=True)
        case Kind.JOB_CLAIMED:
            return replace(run, claims=run.claims | {lines.payload(event, lines.Claim).key})
        case Kind.JOB_RELEASED:
            return replace(run, claims=run.claims - {lines.payload(event, lines.Claim).key})
        case Kind.JOB_ADDED:
            return _added(run, lines.payload(event, lines.JobAdded))
        case Kind.IDLE if event.tag is None:
            return run
        case Kind.NOTE:
            return run
        case Kind.INTENT:
            return _intent(run, event)
    index = next((i for i, rental in enumerate(run.rentals) if rental.tag == event.tag), None)
    if index is None:
        return _odd(run, event, "no such rental")
    if event.kind is Kind.CHECKPOINT_HOME:
        run = _home(run, event)
    if event.kind is Kind.PROGRESS:
        run = _progress(run, event)
    rental = run.rentals[index]
    if rental.state is RentalState.GONE and event.kind in BY_ANOTHER:
        return run
    if rental.state.over and event.kind not in AFTER_THE_END:
        # A machine that is there after its rental's end is the most expensive surprise there is: it is open again.
        run = _odd(run, event, f"after {rental.state}")
        if event.kind not in REOPENS:
            return run
    if event.kind in FROM and rental.state not in FROM[event.kind] and not rental.state.over:
        run = _odd(run, event, f"while {rental.state}")
        if event.kind in (Kind.CREATE_REFUSED, Kind.CREATE_UNCLEAR, Kind.JOB_STARTED):
            return run
    changed = _rental(rental, event)
    return replace(run, rentals=(*run.rentals[:index], changed, *run.rentals[index + 1 :]))


AFTER_THE_END = (Kind.CHARGED, Kind.CHECKPOINT_HOME, Kind.METERED, Kind.SEEN_ABSENT, Kind.MACHINE_FAILED)
"""What may be written of a rental that is over."""
REOPENS = (Kind.ADOPTED, Kind.CREATED, Kind.CREATE_UNCLEAR)
"""What opens a rental again: it is listed after all, or its client slept for so long before it sent ``create`` that
somebody else had closed what had come of nothing."""
BY_ANOTHER = (Kind.DESTROY_SENT, Kind.DESTROY_ACCEPTED, Kind.DESTROY_FAILED, Kind.GONE)
"""What may be written of a rental that is gone by somebody who was ending it at the same time; it changes nothing."""
_WAITING = frozenset({RentalState.INTENT, RentalState.UNCLEAR})
_BOOTING = _WAITING | {RentalState.CREATED}
FROM: Mapping[Kind, frozenset[RentalState]] = {
    Kind.CREATED: _WAITING,
    Kind.ADOPTED: frozenset(RentalState),
    Kind.CREATE_REFUSED: _WAITING,
    Kind.CREATE_UNCLEAR: frozenset({RentalState.INTENT}),
    Kind.REACHABLE: frozenset(RentalState) - _WAITING,
    Kind.JOB_STARTED: frozenset({RentalState.REACHABLE, RentalState.TRAINING}),
}
"""Where a line is expected. Elsewhere it is an anomaly, and one that would close a live rental is not believed."""


def _added(run: Run, data: lines.JobAdded) -> Run:
    jobs = run.config.get("jobs")
    known = jobs if isinstance(jobs, dict) else {}
    return replace(run, config={**run.config, "jobs": {**known, data.name: data.plan}})


def _odd(run: Run, event: Event, why: str) -> Run:
    return replace(run, anomalies=(*run.anomalies, f"line {event.seq}: {event.kind} {why}"))


def _intent(run: Run, event: Event) -> Run:
    if event.tag is None or any(rental.tag == event.tag for rental in run.rentals):
        return _odd(run, event, "twice")
    data = lines.payload(event, lines.Intent)
    rental = Rental(
        tag=event.tag,
        run_id=run.id,
        provider=data.provider,
        offer=data.offer,
        disk_gb=data.disk_gb,
        hourly=Usd(data.hourly_micros),
        reserved=Usd(data.reserved_micros),
        state=RentalState.INTENT,
        intent_at=event.at,
        soft_deadline=data.soft_deadline,
        hard_deadline=data.hard_deadline,
        granularity_s=data.granularity_s,
        minimum_s=data.minimum_s,
        account=data.account,
        alive_at=event.at,
        clock_offset=data.clock_offset or 0.0,
    )
    offset = run.clock_offset if data.clock_offset is None else data.clock_offset
    return replace(run, rentals=(*run.rentals, rental), clock_offset=offset)


def _home(run: Run, event: Event) -> Run:
    data = lines.payload(event, lines.CheckpointHome)
    artefact = Artefact(
        path=data.path,
        size=data.size,
        sha256=data.sha256,
        final=data.final,
        step=data.step,
        epoch=data.epoch,
        job_id=data.job_id,
    )
    others = tuple(one for one in run.artefacts if one.path != data.path)
    return replace(run, artefacts=(*others, artefact))


def _progress(run: Run, event: Event) -> Run:
    data = lines.payload(event, lines.ProgressMade)
    point = ProgressPoint(
        at=event.at,
        step=data.step,
        total=data.total,
        epoch=data.epoch,
        epochs=data.epochs,
        avg_loss=data.avg_loss,
        it_s=data.it_s,
    )
    return replace(run, last_progress=point)


SIGNS_OF_LIFE = frozenset({
    Kind.CREATED, Kind.ADOPTED, Kind.REACHABLE, Kind.PREPARED, Kind.JOB_STARTED, Kind.PROGRESS, Kind.CHECKPOINT_HOME,
    Kind.JOB_DONE, Kind.JOB_FAILED, Kind.METERED, Kind.IDLE, Kind.IDLE_OVER,
})  # fmt: skip
"""Lines that only a machine which exists can have caused."""


def _rental(rental: Rental, event: Event) -> Rental:
    if event.kind is Kind.ADOPTED or (event.kind in SIGNS_OF_LIFE and not rental.state.over):
        rental = replace(rental, alive_at=max(rental.alive_at, event.at))
    if isinstance(event.data.get("bytes_in"), int) or isinstance(event.data.get("bytes_out"), int):
        traffic = lines.Traffic(
            bytes_in=_total(event, "bytes_in", rental.bytes_in), bytes_out=_total(event, "bytes_out", rental.bytes_out)
        )
        rental = replace(rental, bytes_in=traffic.bytes_in, bytes_out=traffic.bytes_out)
    match event.kind:
        case Kind.CREATED | Kind.ADOPTED:
            made = lines.payload(event, lines.Created)
            return replace(
                _back(rental),
                ref=made.ref,
                created_at=rental.created_at if made.created_at is None else made.created_at,
                hourly=max(rental.hourly, Usd(made.hourly_micros or 0)),
                seen=rental.seen or event.kind is Kind.ADOPTED,
                account=made.account if rental.account == "" and made.account else rental.account,
            )
        case Kind.CREATE_REFUSED:
            return replace(rental, state=RentalState.REFUSED, gone_at=event.at, why=_reason(event))
        case Kind.CREATE_UNCLEAR:
            ref = lines.payload(event, lines.Unclear).ref
            return replace(_back(rental), state=RentalState.UNCLEAR, ref=ref or rental.ref, why=_reason(event))
        case Kind.REACHABLE:
            reached = lines.payload(event, lines.Reached)
            state = RentalState.REACHABLE if rental.state in _BOOTING else rental.state
            endpoint = reached.endpoint or rental.endpoint
            return replace(_present(rental), state=state, endpoint=endpoint, seen=True)
        case Kind.JOB_STARTED:
            return _job_started(rental, event)
        case Kind.JOB_DONE | Kind.JOB_FAILED:
            return _job_over(rental, event)
        case Kind.IDLE:
            return _idle(rental, event)
        case Kind.IDLE_OVER:
            return replace(rental, idle=tuple(_over(one, event.at) for one in rental.idle))
        case Kind.DESTROY_SENT:
            shown = lines.payload(event, lines.Destroy).shown and not rental.destroy_accepted
            return replace(
                rental, state=RentalState.DESTROYING, why=_reason(event) or rental.why,
                alive_at=event.at if shown else rental.alive_at,
            )  # fmt: skip
        case Kind.DESTROY_ACCEPTED:
            # What was absent before the order proves nothing about what it did.
            return replace(_present(rental), state=RentalState.DESTROYING, destroy_accepted=True)
        case Kind.DESTROY_FAILED:
            # Its order was sent, even where the line that announced it could not be written.
            return replace(rental, state=RentalState.DESTROYING)
        case Kind.SEEN_ABSENT:
            return _absent(rental, event)
        case Kind.GONE:
            ended = lines.payload(event, lines.Gone).ended_at
            return replace(rental, state=RentalState.GONE, gone_at=event.at if ended is None else ended)
        case Kind.REPLANNED:
            return replace(rental, replanned_steps=lines.payload(event, lines.Replanned).steps)
        case Kind.METERED:
            hourly = Usd(lines.payload(event, lines.Metered).hourly_micros or 0)
            return replace(rental, hourly=max(rental.hourly, hourly), metered_at=event.at)
        case Kind.MACHINE_FAILED:
            detail = lines.payload(event, lines.Payload).detail
            trait = detail.get("trait")
            return replace(
                rental, failed_at=None if detail.get("image") else event.at, failure=_reason(event),
                trait=trait if isinstance(trait, str) else "",
            )  # fmt: skip
        case Kind.CHARGED:
            charges = lines.payload(event, lines.Charged).charges
            same = rental.charged is not None and rental.charged.total == charges.total
            return replace(rental, charged=charges, charged_at=rental.charged_at if same else event.at)
    return rental


def _job_started(rental: Rental, event: Event) -> Rental:
    data = lines.payload(event, lines.JobStarted)
    others = tuple(one for one in rental.jobs if one.id != data.job_id)
    job = RentalJob(data.job_id, data.name, data.key, event.at)
    return replace(rental, state=RentalState.TRAINING, jobs=(*others, job))


def _job_over(rental: Rental, event: Event) -> Rental:
    data = lines.payload(event, lines.JobEnded)
    failed = event.kind is Kind.JOB_FAILED
    jobs = tuple(
        replace(one, over_at=event.at, failed=failed, why=data.reason) if one.id == data.job_id else one
        for one in rental.jobs
    )
    return replace(rental, jobs=jobs, why=data.reason)


def _idle(rental: Rental, event: Event) -> Rental:
    until = lines.payload(event, lines.Idle).until or event.at
    if rental.idle and rental.idle[-1].over_at is None:
        return replace(rental, idle=(*rental.idle[:-1], replace(rental.idle[-1], until=until)))
    return replace(rental, idle=(*rental.idle, Idle(event.at, until)))


def _over(idle: Idle, at: float) -> Idle:
    return replace(idle, over_at=at) if idle.over_at is None else idle


def _back(rental: Rental) -> Rental:
    """It exists: a rental that was over, or never confirmed, is one to destroy again."""
    if rental.state.over or rental.state in _WAITING:
        rental = replace(rental, state=RentalState.CREATED, destroy_accepted=False)
    return replace(_present(rental), gone_at=None)


def _present(rental: Rental) -> Rental:
    """From here on absence is counted from zero."""
    return replace(rental, absent_count=0, absent_since={})


def _absent(rental: Rental, event: Event) -> Rental:
    seen = lines.payload(event, lines.Seen)
    first = min(seen.uptime_s, rental.absent_since.get(seen.boot, seen.uptime_s))
    return replace(
        rental,
        absent_count=rental.absent_count + 1,
        absent_since={**rental.absent_since, seen.boot: first} if seen.boot else rental.absent_since,
    )


def _total(event: Event, key: str, so_far: int) -> int:
    value = event.data.get(key)
    return max(so_far, value) if isinstance(value, int) else so_far


def _reason(event: Event) -> str:
    reason = event.data.get("reason", "")
    return reason if isinstance(reason, str) else ""
