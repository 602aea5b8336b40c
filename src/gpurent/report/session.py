"""Where a session stands, by its ledger. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue, TypeAdapter, ValidationError

from gpurent.budget.spend import run_spent
from gpurent.budget.state import Rental, RentalState, Run
from gpurent.model import Need
from gpurent.money import ZERO, Usd
from gpurent.report.shares import idled


@dataclass(frozen=True, slots=True)
class SessionJob:
    """One job of a session."""

    name: str
    state: str
    """``waiting``, ``training``, ``done`` or ``failed``."""


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """Where a session stands. Times are Unix seconds."""

    run_id: str
    state: str
    """``no machine``, ``renting``, ``preparing``, ``training``, ``idle``, ``ending`` or ``closed``."""
    budget: Usd
    spent: Usd
    idle: Usd
    """What waiting for jobs has cost, contained in ``spent``."""
    idle_s: float
    """The idle limit."""
    machine: str
    """GPU and provider; empty where there is none."""
    hourly: Usd
    """What the machine costs, traffic aside."""
    idle_until: float | None
    """When a machine that waits is terminated."""
    ends_by: float | None
    """When the machine is terminated at the latest, whatever happens."""
    jobs: tuple[SessionJob, ...]

    @property
    def left(self) -> Usd:
        """Of the budget; never below zero."""
        return max(ZERO, self.budget - self.spent)

    def to_dict(self) -> dict[str, object]:
        """JSON values only; amounts are integer micro-dollars."""
        return {
            "run_id": self.run_id,
            "state": self.state,
            "budget_micros": self.budget.micros,
            "spent_micros": self.spent.micros,
            "left_micros": self.left.micros,
            "idle_micros": self.idle.micros,
            "idle_s": self.idle_s,
            "machine": self.machine,
            "hourly_micros": self.hourly.micros,
            "idle_until": self.idle_until,
            "ends_by": self.ends_by,
            "jobs": [{"name": job.name, "state": job.state} for job in self.jobs],
        }


def kept(idle_s: float, need: Need) -> dict[str, JsonValue]:
    """What the ledger keeps of a session's opening, for other processes."""
    return {"idle_s": idle_s, "need": TypeAdapter(Need).dump_python(need, mode="json")}


def need_of(run: Run) -> Need | None:
    """What the session of ``run`` asks of its machines; None where the ledger does not say."""
    told = run.config.get("session")
    try:
        return TypeAdapter(Need).validate_python(told.get("need")) if isinstance(told, dict) else None
    except ValidationError:
        return None


def is_session(run: Run) -> bool:
    """Whether a run is one that is given job after job."""
    return isinstance(run.config.get("session"), dict)


def session_status(run: Run, now: float) -> SessionStatus:
    """Where ``run`` stands at ``now`` (Unix seconds)."""
    told = run.config.get("session")
    limit = told.get("idle_s") if isinstance(told, dict) else None
    rental = run.open_rentals[-1] if run.open_rentals else None
    state = "closed" if run.outcome is not None else "no machine"
    if rental is not None:
        state = _state(rental)
    return SessionStatus(
        run.id,
        state,
        budget=run.budget,
        spent=run_spent(run, now),
        idle=idled(run, now),
        idle_s=float(limit) if isinstance(limit, int | float) else 0.0,
        machine="" if rental is None else f"{rental.offer.gpu} on {rental.provider}",
        hourly=ZERO if rental is None else rental.hourly,
        idle_until=rental.idle[-1].until if rental is not None and state == "idle" else None,
        ends_by=None if rental is None else rental.hard_deadline,
        jobs=_jobs(run),
    )


def _state(rental: Rental) -> str:
    if rental.state is RentalState.DESTROYING:
        return "ending"
    if rental.idle and rental.idle[-1].over_at is None:
        return "idle"
    if rental.state is RentalState.TRAINING and not rental.job_over:
        return "training"
    return "preparing" if rental.state in (RentalState.REACHABLE, RentalState.TRAINING) else "renting"


def _jobs(run: Run) -> tuple[SessionJob, ...]:
    jobs = run.config.get("jobs")
    states: Mapping[str, str] = {
        job.name: "training" if job.over_at is None else "failed" if job.failed else "done"
        for rental in run.rentals
        for job in rental.jobs
    }
    other = "waiting" if run.outcome is None else "not begun"
    return tuple(SessionJob(name, states.get(name, other)) for name in (jobs if isinstance(jobs, dict) else ()))
