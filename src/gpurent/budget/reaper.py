"""Make reality agree with the ledger: a pure decision over open rentals and what providers list."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gpurent.budget.state import Rental, RentalState
from gpurent.model import Instance

ABSENT_LISTINGS = 3
"""Complete listings a rental must be missing from before it counts as gone: services list late after both create and destroy."""
UNCLEAR_GRACE_S = 600.0
"""A create without an answer may surface this late; before that, absence proves nothing."""
TAG_PREFIX = "gpurent-"


@dataclass(frozen=True, slots=True)
class Destroy:
    """Destroy ``ref``; with ``collect_first`` finished checkpoints on it are worth fetching before."""

    provider: str
    ref: str
    tag: str
    run_id: str
    reason: str
    collect_first: bool = False


@dataclass(frozen=True, slots=True)
class Adopt:
    """An unclear create turned out to exist."""

    tag: str
    run_id: str
    ref: str


@dataclass(frozen=True, slots=True)
class MarkAbsent:
    """Missing from one more complete listing."""

    tag: str
    run_id: str


@dataclass(frozen=True, slots=True)
class ConfirmGone:
    """Missing often enough."""

    tag: str
    run_id: str
    ref: str | None


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing to do now, and why."""

    tag: str
    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Orphan:
    """Carries our tag but is not in this ledger: another computer's, or a lost ledger's."""

    provider: str
    ref: str
    tag: str


Action = Destroy | Adopt | MarkAbsent | ConfirmGone | Leave | Orphan


def reconcile(
    rentals: Sequence[Rental],
    listings: Mapping[str, Sequence[Instance] | None],
    now: float,
    live_runs: Collection[str],
    known_tags: Collection[str] = (),
) -> tuple[Action, ...]:
    """Decide for every open rental, and find orphans.

    Args:
        rentals: everything not confirmed gone.
        listings: complete listing by provider; None where listing failed: then nothing is concluded.
        now: Unix seconds.
        live_runs: runs whose client is alive and looks after its own.
        known_tags: tags of closed rentals, so that a late listing of one is not an orphan.
    """
    actions: list[Action] = []
    for rental in rentals:
        listing = listings.get(rental.provider)
        if listing is None:
            actions.append(Leave(rental.tag, rental.run_id, f"{rental.provider} could not be listed"))
            continue
        seen = next((one for one in listing if one.tag == rental.tag or one.ref == rental.ref), None)
        if rental.run_id in live_runs and now < rental.hard_deadline:
            actions.append(Leave(rental.tag, rental.run_id, "its client is alive"))
        else:
            actions += _dead(rental, seen, now)
    ours = {rental.tag for rental in rentals} | set(known_tags)
    for provider, listing in listings.items():
        actions += [
            Orphan(provider, one.ref, one.tag)
            for one in listing or ()
            if one.tag.startswith(TAG_PREFIX) and one.tag not in ours
        ]
    return tuple(actions)


def _dead(rental: Rental, seen: Instance | None, now: float) -> list[Action]:
    if seen is not None:
        actions: list[Action] = [] if rental.ref == seen.ref else [Adopt(rental.tag, rental.run_id, seen.ref)]
        reason = "past its hard deadline" if now >= rental.hard_deadline else "its client is gone"
        collect = rental.job_id is not None and rental.state is RentalState.TRAINING
        return [*actions, Destroy(rental.provider, seen.ref, rental.tag, rental.run_id, reason, collect)]
    never_confirmed = rental.state in (RentalState.INTENT, RentalState.UNCLEAR)
    if rental.absent_count + 1 < ABSENT_LISTINGS:
        return [MarkAbsent(rental.tag, rental.run_id)]
    if never_confirmed and now - rental.intent_at < UNCLEAR_GRACE_S:
        left = UNCLEAR_GRACE_S - (now - rental.intent_at)
        return [Leave(rental.tag, rental.run_id, f"create had no answer; it may still surface for {left:.0f} s")]
    return [MarkAbsent(rental.tag, rental.run_id), ConfirmGone(rental.tag, rental.run_id, rental.ref)]
