"""Single values out of a service's JSON: what is not of the kind that was asked for counts as absent. Pure.

For adapters: a service may add, drop and change fields at any time, and none of that may raise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import DecimalException

from gpurent.money import Usd
from gpurent.untrusted.text import clean

NAME = 300
"""Longest name, in characters."""
PROSE = 500


def text(value: object) -> str:
    """A name, empty for anything else; one with control characters, half a character or no end is none."""
    return value if isinstance(value, str) and len(value) <= NAME and value.isprintable() else ""


def prose(value: object) -> str:
    """A text for people, fit to be shown on a terminal; empty for anything else."""
    return clean(value, PROSE) if isinstance(value, str) else ""


def mapping(value: object) -> Mapping[str, object]:
    """An object, empty for anything else."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> Sequence[object]:
    """An array, empty for anything else."""
    return value if isinstance(value, list) else ()


def whole(value: object) -> int | None:
    """A whole number that is none of JSON's other things."""
    if isinstance(value, float) and abs(value) < 2**53 and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def usd(value: object) -> Usd | None:
    """An amount in dollars; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e9:  # nor NaN
        return None
    try:
        return Usd.from_wire(value)
    except (ValueError, DecimalException):
        return None


def moment(value: object) -> float | None:
    """Unix seconds of an RFC 3339 time; None for what is none, or names no zone."""
    try:
        found = datetime.fromisoformat(text(value))
        return found.timestamp() if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
