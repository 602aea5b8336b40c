"""Vast.ai's filters: ``{column: {operator: value}}``, numbers often as strings. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from gpurent_sandbox.vast.problems import Problem

Row = Mapping[str, Any]
Filters = Mapping[str, Any]

COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
MEMBERS = ("in", "notin")


def bad_key(name: str) -> Problem:
    """A column that cannot be filtered."""
    return Problem(400, "invalid_request", f"{name} is not a valid search key")


def check(column: str, condition: object) -> None:
    """See that a condition can be understood.

    Raises:
        Problem: 400; it cannot.
    """
    if not isinstance(condition, dict) or not condition:
        raise Problem(400, "invalid_request", f"{column}: an operator and a value are wanted")
    for name, value in condition.items():
        if name not in COMPARE and name not in MEMBERS:
            raise Problem(400, "invalid_request", f"{name} is not a valid search op")
        if name in MEMBERS and not isinstance(value, list):
            raise Problem(400, "invalid_request", f"{column}: {name} wants a list")


def holds(have: object, condition: Filters) -> bool:
    """Whether a column's value satisfies all that is asked of it; an empty one satisfies only inequality."""
    return all(_holds(have, name, value) for name, value in condition.items())


def _holds(have: object, name: str, wanted: Any) -> bool:
    if name in MEMBERS:
        return any(_holds(have, "eq", value) for value in wanted) is (name == "in")
    value = _like(wanted, have)
    if have is None or value is None:
        return (have is None) is (value is None) if name == "eq" else name == "neq"
    return COMPARE[name](have, value)


def _like(value: object, sample: object) -> Any:
    """A value as the type of ``sample``; None when it cannot be read as one."""
    if isinstance(sample, bool):
        return {"true": True, "false": False}.get(str(value).lower())
    if isinstance(sample, int | float):
        try:
            return float(value) if isinstance(value, str | int | float) else None
        except ValueError:
            return None
    return str(value) if isinstance(value, str | int | float) else None
