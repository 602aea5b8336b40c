"""A few names for a sentence, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 5


def listed(names: Sequence[str]) -> str:
    """The first ``NAMED`` of them, and the count of the rest."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
