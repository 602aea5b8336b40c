"""A few names for a sentence, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 5


def listed(names: Sequence[str]) -> str:
    """The first ``NAMED`` of them, and the count of the rest."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def noted(names: Sequence[str], note: str) -> str:
    """A sentence about them; ``note`` begins with ``is`` or ``has``."""
    verb, _, rest = note.partition(" ")
    plural = {"is": "are", "has": "have"}.get(verb, verb)
    return f"{listed(names)} {verb if len(names) == 1 else plural} {rest}."
