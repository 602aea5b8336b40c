"""Reduce a life that broke to the fewest troubles that still break it, and write it down so that it can be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum

from tests.simulation.schedule import NEVER, QUIET, Schedule, parts

from gpurent.money import Usd


def shrink(plan: Schedule, breaks: Callable[[Schedule], bool]) -> Schedule:
    """Leave out one trouble after the other for as long as what is left breaks."""
    while True:
        smaller = next((one for one in parts(plan) if breaks(one)), None)
        if smaller is None:
            return plan
        plan = smaller


def literal(plan: Schedule) -> str:
    """The life as an expression, for ``kept.py``."""
    told = [f"seed={plan.seed}", f"budget={_literal(plan.budget)}", f"course={_literal(plan.course)}"]
    told += [f"{name}={_literal(getattr(plan, name))}" for name, quiet in QUIET.items() if getattr(plan, name) != quiet]
    return f"Schedule({', '.join(told)})"


def _literal(value: object) -> str:
    if isinstance(value, Usd):
        return f"Usd({value.micros:_})"
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if is_dataclass(value) and not isinstance(value, type):
        given = {one.name: getattr(value, one.name) for one in fields(value) if getattr(value, one.name) != one.default}
        return f"{type(value).__name__}({', '.join(f'{name}={_literal(one)}' for name, one in given.items())})"
    return "NEVER" if value == NEVER else repr(value)
