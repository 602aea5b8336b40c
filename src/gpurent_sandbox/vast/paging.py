"""Pages of a list whose token is the place of the last row shown. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gpurent_sandbox.vast.problems import Problem

Row = TypeVar("Row")
Place = list[Any]


def token_of(place: Place) -> str:
    """The token that continues behind a place."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _place(token: str) -> Place:
    found = json.loads(base64.urlsafe_b64decode(token.encode()))
    if not isinstance(found, list):
        raise TypeError(token)
    return found


def page(
    rows: Sequence[Row], place: Callable[[Row], Place], size: int, token: str, *, descending: bool = False
) -> tuple[list[Row], str | None]:
    """One page in the order of ``place`` (of one shape for all rows), and the token of the next one, if any.

    Raises:
        Problem: 400; nobody gave out such a token.
    """
    left = sorted(rows, key=place, reverse=descending)
    if token:
        try:
            after = _place(token)
            left = [row for row in left if (place(row) < after if descending else place(row) > after)]
        except (ValueError, TypeError) as error:
            raise Problem(400, "invalid_token", "Invalid pagination token") from error
    shown = left[:size]
    return shown, token_of(place(shown[-1])) if len(left) > size else None
