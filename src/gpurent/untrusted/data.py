"""The one reader of JSON from outside: bounded in size, depth and numbers, strict UTF-8, then checked against a model.

Python's own parser takes NaN, integers of any length, any depth that the stack bears and half characters
(``"\\ud800"``); each of them breaks something further on.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal, TypeVar, overload

from pydantic import BaseModel, TypeAdapter, ValidationError

from gpurent.untrusted.text import clean

DEPTH = 32
DIGITS = 18
"""Of a whole number: what fits into 64 bits whatever its digits are."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]", re.ASCII)
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
"""Strings, also one without an end, and what is nested. Linear in time whatever the text is."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
OddNumbers = Literal["refuse", "drop"]


class Malformed(ValueError):
    """What came from outside is not what was agreed; the text is one line, and quotes at most a few words of it."""


def parse(given: bytes | str, *, most: int, depth: int = DEPTH, odd_numbers: OddNumbers = "refuse") -> object:
    """Parse JSON.

    Args:
        given: as it came.
        most: bytes (characters of a string) that are accepted.
        depth: levels of arrays and objects that are accepted.
        odd_numbers: NaN, infinities, ``1e999`` and whole numbers beyond 18 digits are refused, or become null.

    Raises:
        Malformed.
    """
    if len(given) > most:
        raise Malformed(f"{len(given)} bytes where at most {most} are expected")
    try:
        text = given.decode("utf-8") if isinstance(given, bytes) else given
    except UnicodeDecodeError as error:
        raise Malformed(f"no UTF-8 at byte {error.start}") from error
    _check_depth(text, depth)
    numbers = _Numbers(odd_numbers)
    try:
        value: object = json.loads(
            text, strict=False, parse_constant=numbers.odd, parse_int=numbers.whole, parse_float=numbers.real
        )
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise Malformed("half a character") from error
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed("no JSON") from error
    return value


@overload
def fitted(model: type[M], value: object) -> M: ...
@overload
def fitted(model: TypeAdapter[T], value: object) -> T: ...
def fitted(model: type[M] | TypeAdapter[T], value: object) -> M | T:
    """Check a parsed value against a pydantic model or adapter.

    Raises:
        Malformed: naming the place that does not fit, and not its content.
    """
    try:
        if isinstance(model, TypeAdapter):
            return model.validate_python(value)
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = clean(".".join(str(part) for part in first["loc"]), 80)
        raise Malformed(f"{where}: {clean(first['msg'], 120)}" if where else clean(first["msg"], 120)) from error
    except (OverflowError, RecursionError) as error:
        raise Malformed("a value out of all bounds") from error


def whole(text: str, least: int, greatest: int) -> int:
    """A whole number in plain ASCII digits.

    Raises:
        Malformed: it is none, or lies outside ``least`` to ``greatest``.
    """
    stripped = text.strip()
    if re.fullmatch(rf"-?[0-9]{{1,{DIGITS}}}", stripped) is None or not least <= int(stripped) <= greatest:
        raise Malformed(f"{clean(text, 40)!r} where a number from {least} to {greatest} is expected")
    return int(stripped)


def _check_depth(text: str, most: int) -> None:
    if text.count("[") + text.count("{") <= most:
        return
    depth = 0
    for token in _BRACKETS.finditer(text):
        character = token[0]
        depth += (character in "[{") - (character in "]}")
        if depth > most:
            raise Malformed(f"more than {most} levels of arrays and objects")


class _Numbers:
    """What becomes of numbers that JSON, or a 64-bit float, does not hold."""

    def __init__(self, policy: OddNumbers) -> None:
        self._drop = policy == "drop"

    def odd(self, text: str) -> Any:
        if not self._drop:
            raise Malformed(f"the number {clean(text, 24)}")
        return None

    def whole(self, text: str) -> Any:
        return int(text) if len(text.lstrip("-")) <= DIGITS else self.odd(text)

    def real(self, text: str) -> Any:
        value = float(text) if len(text) <= 400 else math.inf
        return value if math.isfinite(value) else self.odd(text)
