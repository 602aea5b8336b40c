"""What a run cost, line by line: our own estimate beside what the provider billed."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from gpurent.budget.spend import accrued, estimated, run_spent
from gpurent.budget.state import Artefact, Rental, RentalState, Run
from gpurent.model import Amounts
from gpurent.money import ZERO, Usd
from gpurent.report.shares import idled, shares


@dataclass(frozen=True, slots=True)
class RentalLine:
    """One rental of the run, failed attempts included."""

    tag: str
    provider: str
    ref: str | None
    gpu: str
    seconds: float
    """From the intent to confirmed gone, or to now."""
    estimate: Amounts
    """By price, time and traffic."""
    billed: Usd | None
    """What the provider has booked so far; None while it has booked nothing."""
    final: bool
    """Whether ``billed`` is the provider's last word."""
    cost: Usd
    """What counts against the budget: the final bill; until there is one, the larger of bill and estimate."""
    open: bool
    failed: bool
    """Nothing was trained on it: refused, never reached, or given back."""
    cause: str = ""
    """Why it failed."""


@dataclass(frozen=True, slots=True)
class JobShare:
    """What one job cost."""

    name: str
    setup: Usd
    """Its part of what the rentals cost while no engine worked: each job that was begun there bears the same."""
    training: Usd
    """Cost of the time from its engine's start to its end."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The bill of one run. ``total`` is the sum of the lines' ``cost``, exactly."""

    run_id: str
    name: str
    outcome: str | None
    budget: Usd
    total: Usd
    lines: tuple[RentalLine, ...]
    artefacts: tuple[Artefact, ...]
    play: bool = False
    """Whether it is about play money."""
    jobs: tuple[JobShare, ...] = ()
    """Every job that was begun, in order; with ``idle`` what they cost adds up to ``total``."""
    idle: Usd = ZERO
    """What the machines of a session cost while they had no job."""

    @property
    def saved(self) -> Usd:
        """What is left of the budget; never below zero."""
        return max(ZERO, self.budget - self.total)

    @property
    def exceeded(self) -> Usd:
        """By how much the budget was exceeded; zero unless a provider billed more than it listed."""
        return max(ZERO, self.total - self.budget)

    @property
    def estimated(self) -> bool:
        """Whether a rental has no final bill yet, so that the total may still change."""
        return any(not line.final and line.cost > ZERO for line in self.lines)

    @property
    def settled(self) -> bool:
        """Whether no rental of the run may still cost money."""
        return not any(line.open for line in self.lines)

    def to_dict(self) -> dict[str, object]:
        """JSON values only; amounts are integer micro-dollars."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "play_money": self.play,
            "outcome": self.outcome,
            "settled": self.settled,
            "estimated": self.estimated,
            "budget_micros": self.budget.micros,
            "total_micros": self.total.micros,
            "saved_micros": self.saved.micros,
            "exceeded_micros": self.exceeded.micros,
            "jobs": [
                {"name": job.name, "setup_micros": job.setup.micros, "training_micros": job.training.micros}
                for job in self.jobs
            ],
            "idle_micros": self.idle.micros,
            "rentals": [_line_dict(line) for line in self.lines],
            "artefacts": [{**asdict(artefact), "path": str(artefact.path)} for artefact in self.artefacts],
        }

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each attempt that failed: on what, at what cost, and why."""
        return tuple(
            f"{line.gpu} at {line.provider} failed, for {line.cost}: {line.cause}" for line in self.lines if line.cause
        )

    def render_rows(self) -> tuple[tuple[str, str, str], ...]:
        """Rows of a table: what, our estimate, what the provider billed. Amounts are exact, not rounded."""
        rows: list[tuple[str, str, str]] = []
        for line in self.lines:
            rows.append((_title(line), str(line.estimate.total), "" if line.billed is None else _billed(line)))
            rows += [(f"  {what}", str(amount), "") for what, amount in _parts(line.estimate) if amount]
        for job in self.jobs if len(self.jobs) > 1 or self.idle else ():
            rows.append((f"of which {job.name}", str(job.setup + job.training), ""))
            rows += [("  set-up", str(job.setup), ""), ("  training", str(job.training), "")]
        if self.idle:
            rows.append(("of which waiting for jobs", str(self.idle), ""))
        rows.append(("total, estimated" if self.estimated else "total", str(self.total), ""))
        rows.append(("budget", str(self.budget), ""))
        rows.append(("over budget", str(self.exceeded), "") if self.exceeded else ("saved", str(self.saved), ""))
        return tuple(rows)


def make_receipt(run: Run, now: float) -> Receipt:
    """Draw up the bill of ``run`` as of ``now`` (Unix seconds); a running rental counts up to now."""
    lines = tuple(_line(rental, now) for rental in run.rentals)
    jobs = tuple(JobShare(name or run.name, *parts) for name, parts in shares(run, now).items())
    return Receipt(
        run_id=run.id,
        name=run.name,
        outcome=run.outcome,
        budget=run.budget,
        total=run_spent(run, now),
        lines=lines,
        artefacts=run.artefacts,
        play=run.play,
        jobs=jobs,
        idle=idled(run, now),
    )


def _line(rental: Rental, now: float) -> RentalLine:
    end = now if rental.gone_at is None else rental.gone_at
    return RentalLine(
        tag=rental.tag,
        provider=rental.provider,
        ref=rental.ref,
        gpu=rental.offer.gpu,
        seconds=max(0.0, end - rental.intent_at),
        estimate=estimated(rental, now),
        billed=None if rental.charged is None else rental.charged.total,
        final=rental.charged is not None and rental.charged.final,
        cost=accrued(rental, now),
        open=not rental.state.over,
        failed=_failed(rental),
        cause=(rental.failure or rental.why) if _failed(rental) else "",
    )


def _failed(rental: Rental) -> bool:
    return rental.state is RentalState.REFUSED or (
        rental.state.over and (rental.job_id is None or bool(rental.failure))
    )


def _line_dict(line: RentalLine) -> dict[str, object]:
    return {
        "tag": line.tag,
        "provider": line.provider,
        "ref": line.ref,
        "gpu": line.gpu,
        "seconds": line.seconds,
        "open": line.open,
        "failed": line.failed,
        "cause": line.cause,
        "cost_micros": line.cost.micros,
        "estimated_micros": {name: amount.micros for name, amount in _parts(line.estimate)},
        "billed_micros": None if line.billed is None else line.billed.micros,
        "billed_final": line.final,
    }


def _parts(spent: Amounts) -> tuple[tuple[str, Usd], ...]:
    return (
        ("gpu", spent.gpu),
        ("disk", spent.disk),
        ("traffic in", spent.traffic_in),
        ("traffic out", spent.traffic_out),
    )


def _title(line: RentalLine) -> str:
    suffix = " (still open)" if line.open else " (failed attempt)" if line.failed else ""
    return f"{line.gpu} at {line.provider}, {line.seconds / 60:.1f} min{suffix}"


def _billed(line: RentalLine) -> str:
    return str(line.billed) if line.final else f"{line.billed} so far"
