"""How far a service's clock is from this computer's, by the ``Date`` of its replies (RFC 9110, section 6.6.1). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

RESOLUTION_S = 1.0
"""``Date`` is in whole seconds, rounded down."""


@dataclass(frozen=True, slots=True)
class Offset:
    """The service's time minus ours lies between ``low`` and ``high``, in seconds."""

    low: float
    high: float

    @property
    def seconds(self) -> float:
        """The middle."""
        return (self.low + self.high) / 2

    def joined(self, newer: Offset) -> Offset:
        """What both replies say together; the newer alone, if a clock was set between them."""
        low, high = max(self.low, newer.low), min(self.high, newer.high)
        return Offset(low, high) if low <= high else newer


def measured(date: str | None, sent: float, received: float) -> Offset | None:
    """From one reply: its ``Date``, and when it was asked for and came (our Unix seconds). None without a date."""
    try:
        moment = parsedate_to_datetime(date or "")
        at = moment.timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None  # a service may send anything, a year of six digits included
    if moment.tzinfo is None or received < sent:
        return None
    return Offset(at - received, at + RESOLUTION_S - sent)
