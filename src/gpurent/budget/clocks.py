"""Clocks of several computers that share a ledger, compared by the services' time. Pure.

Every computer measures how far a service's clock is from its own and writes that down with what it rents. Two such
numbers tell how far the computers are from each other, whatever the service's own clock is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

APART_S = 180.0
"""Computers whose clocks differ by more do not act on each other's rentals: silence could not be told from skew."""
WRONG_S = 60.0
"""A clock that is further from the services' time is called wrong."""


@dataclass(frozen=True, slots=True)
class OtherClock:
    """The clock of the computer that rented, compared with ours."""

    ahead_s: float = 0.0
    """How far ours is ahead of it; 0 where that is not known."""
    refusal: str = ""
    """Why nothing is done about its rentals before their hard deadline; empty while both clocks agree."""


SAME_CLOCK = OtherClock()


def compared(host: str, theirs: float | None, mine: float | None) -> OtherClock:
    """Compare by what each computer measured: the service's time minus its own, in seconds.

    Args:
        host: the computer that rented.
        theirs: what it measured when it rented; None in ledgers from before that was recorded.
        mine: what this computer measures; None while no service has answered.
    """
    if theirs is None or mine is None:
        return SAME_CLOCK
    ahead = theirs - mine
    if abs(ahead) <= APART_S:
        return OtherClock(ahead)
    wrong = [f"{host}'s is {said}" for said in (_off(theirs),) if said]
    wrong += [f"this computer's is {said}" for said in (_off(mine),) if said]
    return OtherClock(
        ahead,
        f"the clocks of {host} and this computer differ by {_span(ahead)} ({' and '.join(wrong)}); until that is "
        "corrected, only its hard deadline is enforced here, by the service's time",
    )


def wrong_clock(offset: float | None) -> str:
    """What to tell a user whose own clock is wrong; empty while it is right, or nobody knows."""
    said = "" if offset is None else _off(offset)
    return f"The clock of this computer is {said}. Set it: `timedatectl set-ntp true`." if said else ""


def _off(offset: float) -> str:
    if abs(offset) <= WRONG_S:
        return ""
    return f"{_span(offset)} {'behind' if offset > 0 else 'ahead'}"


def _span(seconds: float) -> str:
    seconds = abs(seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
