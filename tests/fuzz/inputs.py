"""Inputs that are almost right: valid samples with a few edits, and JSON with values that nobody expects."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

FRAGMENTS = (
    b"",
    b"\0",
    b"\xff\xfe",
    b'"',
    b"'",
    b"\\",
    b"\n",
    b"\r",
    b"{",
    b"}",
    b"[",
    b"]",
    b"=",
    b":",
    b",",
    b".",
    b"-",
    b"+",
    b"_",
    b"0x",
    b"NaN",
    b"nan",
    b"inf",
    b"-Infinity",
    b"1e999",
    b"1e-999",
    b"1e999999999",
    b"9" * 400,
    b"9" * 5000,
    b"0." + b"1" * 400,
    b"\\ud800",
    "²".encode(),
    "٣".encode(),
    "\u202e".encode(),
    b"\x1b[2J",
    b"[" * 2000,
    b"{a=" * 600,
    b"[[" * 1500 + b"]]" * 1500,
    b"=[" * 1000,
    b'{"a":' * 1500,
    b"'''",
    b'"""',
    b"#",
    b"true",
    b"null",
    b"None",
    b"%s",
    b"1979-05-27T07:32:00Z",
    b"9999-99-99",
    b"\xef\xbb\xbf",
    b"x" * 3000,
    b"a." * 1500 + b"a",
)
"""What parsers were seen to trip over."""


@st.composite
def edited(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """A sample with up to four edits."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 40)))
        piece = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=8))
        data = data[:begin] + piece + data[end:]
    return data


def bytes_like(*samples: bytes) -> st.SearchStrategy[bytes]:
    """Edited samples, and now and then anything at all."""
    return edited(samples) | st.binary(max_size=200)


def text_like(*samples: str) -> st.SearchStrategy[str]:
    """The same as text; bytes that are not UTF-8 come as other characters."""
    return edited([one.encode() for one in samples]).map(lambda data: data.decode("utf-8", "replace")) | st.text()


NUMBERS = (
    st.integers()
    | st.sampled_from([10**18, -(10**18), 2**53, 2**63, 2**64, 10**400, -(10**400), 10**4000, 0, -1])
    | st.floats()
    | st.sampled_from([1e308, -1e308, 5e-324, float("nan"), float("inf"), 1e18, 0.1])
)
TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        "",
        "\ud800",
        "\x1b[2J",
        "\u202e",
        "9" * 400,
        "-",
        "NaN",
        "1e999",
        "2026-11-26T10:00:00Z",
        "0000-00-00",
        "x" * 5000,
        "9999-12-31T23:59:59.999999+23:59",
        "0001-01-01T00:00:00-23:59",
        "²",
        "/",
        "a/b/c",
        "1@2",
        "instance-",
        "instance-1",
    ]
)
ODD = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value inside a JSON value."""
    found = [at]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found += places(inner, (*at, key))
    return found


@st.composite
def patched(draw: st.DrawFn, sample: Any) -> Any:
    """A JSON value with up to three of its parts replaced or removed."""
    value = copy.deepcopy(sample)
    for _ in range(draw(st.integers(1, 3))):
        *outer, last = draw(st.sampled_from(places(value)[1:] or [(None,)]))
        if last is None:
            return draw(ODD)
        holder = value
        for key in outer:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()) and draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = draw(ODD)
    return value


def value_like(*samples: Any) -> st.SearchStrategy[Any]:
    """JSON values near a sample, and far from it."""
    return st.one_of([*(patched(one) for one in samples), ODD])
