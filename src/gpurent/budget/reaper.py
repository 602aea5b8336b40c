"""Make reality agree with the ledger: a pure decision over open rentals and what providers list."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from gpurent.budget.clocks import SAME_CLOCK, OtherClock
from gpurent.budget.state import Rental, RentalState
from gpurent.clock import Uptime
from gpurent.model import Instance

ABSENT_LISTINGS = 3
"""Complete listings without a rental before it counts as gone: services list late after create and after destroy."""
UNCLEAR_GRACE_S = 600.0
"""For so long a machine has to be absent that no answer and no listing ever named: it may surface this late."""
UNSEEN_GRACE_S = 120.0
"""For so long a machine that an answer named and no listing ever showed."""
SURFACE_S = 2 * 3600.0
"""For so long after the end of a rental whose create was never answered its watchdog goes on looking for a machine."""
LATE_S = 1800.0
"""The same where an answer named a machine that no listing ever showed."""
REUSED_S = 60.0
"""A machine that was created so much later than ours, and has another name, is not ours, whatever its ref."""
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
    shown: bool = False
    """A listing shows it: it existed at that moment."""
    asked: Uptime | None = None
    """When the listing was asked for that shows it, or shows nobody's machine under its ref; None without one."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """A listing shows what the ledger knew by its intent or its reply only, or held for gone."""

    tag: str
    run_id: str
    ref: str
    provider: str


@dataclass(frozen=True, slots=True)
class MarkAbsent:
    """Missing from one more complete listing, which was asked for at ``asked``."""

    tag: str
    run_id: str
    asked: Uptime


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

    instance: Instance


Action = Destroy | Adopt | MarkAbsent | ConfirmGone | Leave | Orphan


@dataclass(frozen=True, slots=True)
class OtherAccount:
    """Why a listing that does not show a rental proves nothing about it."""

    reason: str
    certain: bool
    """It is another account: no order is sent there either, since the same refs may mean its machines."""


def other_account(rental: Rental, account: str, why: str, *, vouched: bool) -> OtherAccount | None:
    """Whether a rental may exist in another account than the one behind the key in use; None when it cannot.

    Args:
        rental: as the ledger has it. One from before accounts were recorded is judged by any listing.
        account: that the key in use opens; empty where the provider does not tell.
        why: it does not tell.
        vouched: this process rented it with that key, or the user says that the key is of the account that rented.
    """
    if rental.account is None or rental.account == account != "":
        return None
    if rental.account and account:
        return OtherAccount(
            f"account {rental.account} of {rental.provider} rented it, and the key in use opens {account}; give a key "
            f"of {rental.account}: `gpurent login {rental.provider}`, or its environment variable",
            certain=True,
        )
    if vouched:
        return None
    unknown = (
        f"account {rental.account} of {rental.provider} rented it, and {why}"
        if rental.account
        else f"{rental.provider} did not tell which account rented it"
    )
    return OtherAccount(
        f"{unknown}; if the key in use is of the account that rented it: `gpurent reap --same-account`", certain=False
    )


def reconcile(
    rentals: Sequence[Rental],
    listings: Mapping[str, Sequence[Instance] | None],
    now: float,
    live_runs: Collection[str],
    *,
    known_tags: Mapping[str, str] = MappingProxyType({}),
    silent: Collection[str] = (),
    asked: Uptime,
    others: Mapping[str, OtherAccount] = MappingProxyType({}),
    clocks: Mapping[str, OtherClock] = MappingProxyType({}),
    late: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Action, ...]:
    """Decide for every open rental, and find orphans.

    Gone takes an accepted order to destroy *and* absence from complete listings afterwards; the caller records
    ``DESTROY_ACCEPTED`` when the provider took the order. Apply, list again and repeat until only ``Leave`` and
    ``Orphan`` are left.

    Args:
        rentals: everything not confirmed gone.
        listings: complete listing by provider; None where listing failed: then nothing is concluded.
        now: Unix seconds.
        live_runs: runs whose client is alive and looks after its own.
        known_tags: runs of closed rentals by their tags: one that is listed again is adopted and destroyed, no matter
            who is alive.
        silent: tags of rentals whose own machine did not answer although others did: as if listing had failed.
        asked: uptime of this computer when the listings were asked for. How long a machine has been absent is told by
            it and not by ``now``: the wall clock may be set, and the computer may sleep after the answer.
        others: by tag, rentals that may exist in another account. One that a listing shows is in the listed one.
        clocks: by run, the clocks of other computers that rented. Where one differs too much from ours, its rentals are
            left alone until their hard deadline, which is compared by that clock.
        late: by tag, why rentals have to end now, no matter who is alive (``guard.overdue``), beside the hard deadline.
    """
    actions: list[Action] = []
    for rental in rentals:
        listing = None if rental.tag in silent else listings.get(rental.provider)
        clock = clocks.get(rental.run_id, SAME_CLOCK)
        over = late.get(rental.tag) or ("past its hard deadline" if _past(rental, now, clock) else "")
        idle = unattended(rental, now, live_runs, clock, late=over)
        if listing is None and not (idle and rental.provider in listings and unordered(rental)):
            what = "its machine does not answer" if rental.tag in silent else f"{rental.provider} could not be listed"
            actions.append(Leave(rental.tag, rental.run_id, what))
            continue
        seen = next((one for one in listing or () if shows(one, rental)), None)
        other = others.get(rental.tag) if seen is None else None
        if not idle:
            actions.append(Leave(rental.tag, rental.run_id, clock.refusal or "its client is alive"))
        elif other is not None and (other.certain or not unordered(rental)):
            actions.append(Leave(rental.tag, rental.run_id, other.reason))
        else:
            taken = any(one.ref == rental.ref for one in listing or ()) and seen is None
            actions += _dead(rental, seen, asked, over, taken=taken, listed=listing is not None)
    ours = {rental.tag for rental in rentals}
    for listing in listings.values():
        for one in listing or ():
            if one.tag.startswith(TAG_PREFIX) and one.tag not in ours:
                actions += _stray(one, known_tags.get(one.tag), asked)
    return tuple(actions)


def shows(one: Instance, rental: Rental) -> bool:
    """Whether what a provider shows is this rental's machine: by its tag, or by its ref under a name somebody changed.

    A ref under another name whose machine was created after ours was given away: that machine is a stranger's.
    """
    return is_ours(one, rental.tag, rental.ref, asked_at(rental))


def asked_at(rental: Rental) -> float:
    """When it was created, or asked for: Unix seconds by the service's clock."""
    return rental.intent_at + rental.clock_offset if rental.created_at is None else rental.created_at


def is_ours(one: Instance, tag: str, ref: str | None, created_at: float) -> bool:
    """The same of a machine that was asked for, or created, at ``created_at`` (Unix seconds by the service's clock)."""
    if one.tag == tag or one.ref != ref:
        return one.tag == tag
    return not one.tag or one.created_at is None or one.created_at <= created_at + REUSED_S


def _stray(one: Instance, run_id: str | None, asked: Uptime) -> list[Action]:
    if run_id is None:
        return [Orphan(one)]
    reason = "listed again after it was held for gone"
    order = Destroy(provider=one.provider, ref=one.ref, tag=one.tag, run_id=run_id, reason=reason, asked=asked)
    return [Adopt(one.tag, run_id, one.ref, one.provider), order]


def may_surface(rental: Rental, now: float) -> bool:
    """Whether a rental that is closed may have a machine yet: no listing ever showed one, and services were seen to
    carry out a create long after they failed to answer it, and to list late."""
    never = rental.state is RentalState.GONE and not rental.seen and rental.gone_at is not None
    return never and now < (rental.gone_at or 0.0) + (SURFACE_S if rental.ref is None else LATE_S)


def unattended(
    rental: Rental, now: float, live_runs: Collection[str], clock: OtherClock = SAME_CLOCK, *, late: str = ""
) -> bool:
    """Whether anybody may end it: its client is dead, or has let its hard deadline or its money run out.

    Args:
        rental, now, live_runs: as ``reconcile`` has them.
        clock: of the computer that rented. Where it differs too much, nobody can tell whether its client is dead.
        late: as ``guard.overdue`` says it.
    """
    if late or _past(rental, now, clock):
        return True
    return rental.run_id not in live_runs and not clock.refusal


def _past(rental: Rental, now: float, clock: OtherClock) -> bool:
    return now - clock.ahead_s >= rental.hard_deadline


def unordered(rental: Rental) -> bool:
    """Whether its ref is known but no order to destroy was accepted: that order needs no listing."""
    return rental.ref is not None and not rental.destroy_accepted


def _dead(
    rental: Rental, seen: Instance | None, asked: Uptime, overdue: str, *, taken: bool, listed: bool
) -> list[Action]:  # fmt: skip
    """``taken``: its ref is another machine's by now, so that no order may go there, and ours is over. ``listed``: its
    provider answered."""
    reason = overdue or "its client is gone"
    collect = rental.state is RentalState.TRAINING and not rental.job_over and not overdue
    if seen is not None:
        known = rental.seen and rental.ref == seen.ref and rental.account != ""
        actions: list[Action] = [] if known else [Adopt(rental.tag, rental.run_id, seen.ref, rental.provider)]
        return [
            *actions,
            Destroy(
                provider=rental.provider,
                ref=seen.ref,
                tag=rental.tag,
                run_id=rental.run_id,
                reason=reason,
                collect_first=collect,
                shown=True,
                asked=asked,
            ),
        ]
    if rental.ref is not None and unordered(rental) and not taken:
        return [
            Destroy(
                provider=rental.provider,
                ref=rental.ref,
                tag=rental.tag,
                run_id=rental.run_id,
                reason=reason,
                collect_first=collect,
                asked=asked if listed else None,
            )
        ]
    absent = MarkAbsent(rental.tag, rental.run_id, asked)
    since = rental.absent_since.get(asked.boot)
    if since is None or asked.seconds < since:
        return [absent]
    grace_s = 0.0 if taken else _grace(rental)
    if (left := since + grace_s - asked.seconds) > 0:
        return [Leave(rental.tag, rental.run_id, f"no listing ever showed it; it may still surface for {left:.0f} s")]
    needed = ABSENT_LISTINGS + (1 if grace_s else 0)  # the first only began the grace: it may have surfaced since
    if rental.absent_count + 1 < needed:
        return [absent]
    return [absent, ConfirmGone(rental.tag, rental.run_id, rental.ref)]


def _grace(rental: Rental) -> float:
    """For how many seconds of looking it has to be absent.

    Counted from the first listing without it, not from the intent: ``create`` may have been sent long after, by a
    computer that slept in between, and nobody but the client that is gone could say when.
    """
    if rental.seen:
        return 0.0
    return UNCLEAR_GRACE_S if rental.ref is None else UNSEEN_GRACE_S
