"""JSON from outside is read by one reader: bounded, finite, typed, or one error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from gpurent.untrusted.data import Malformed, fitted, parse, whole

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_what_json_holds_is_read_as_it_is(value: object) -> None:
    """As bytes and as text."""
    text = json.dumps(value)
    assert parse(text, most=10**6) == value == parse(text.encode(), most=10**6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff\xfe", "no UTF-8"),
        ("NaN", "number NaN"),
        ("[-Infinity]", "number -Infinity"),
        ("1e999", "number 1e999"),
        ("1" + "0" * 400, "number 1000"),
        ("9" * 10_000, "number 9999"),
        ("0." + "1" * 10_000, "number 0.11"),
        ("[" * 100_000, "levels"),
        ('{"a":' * 50_000, "levels"),
        ('"\\ud800"', "half a character"),
        ('{"\\udfff": 1}', "half a character"),
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[1] x", "no JSON"),
        ("[" + "1," * 200_000 + "1]", "bytes where at most"),
    ],
)
def test_what_json_does_not_hold_is_refused(text: str | bytes, says: str) -> None:
    """Python's parser takes most of it."""
    with pytest.raises(Malformed, match=says) as caught:
        parse(text, most=300_000)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_a_service_loses_the_field_and_not_the_reply() -> None:
    """A number that nobody can hold counts as absent, as every other odd field does."""
    text = f'{{"a": NaN, "b": 1{"0" * 400}, "c": 1e999, "d": 5}}'
    assert parse(text, most=1000, odd_numbers="drop") == {"a": None, "b": None, "c": None, "d": 5}


def test_brackets_in_strings_are_no_depth() -> None:
    """A text may hold as many as it likes."""
    assert parse(json.dumps({"text": '[{"' * 1000}), most=10_000) == {"text": '[{"' * 1000}


@given(st.text(alphabet='[]{}",:\\ 01e-.truefalsn\x00ü\ud800', max_size=200))
def test_no_text_raises_anything_else(text: str) -> None:
    """Close to JSON, and not quite."""
    try:
        parse(text, most=100)
    except Malformed as error:
        assert str(error).isprintable()


class _Model(BaseModel):
    count: int = Field(ge=0, le=10)
    name: str = ""


def test_a_value_that_does_not_fit_is_named_by_its_place() -> None:
    """Not by its content, which may be of any size."""
    with pytest.raises(Malformed, match=r"^count: Input should be less than or equal to 10$"):
        fitted(_Model, {"count": 11})
    with pytest.raises(Malformed, match=r"^1\.count: "):
        fitted(TypeAdapter(list[_Model]), [{"count": 1}, {"count": "x" * 10**6}])
    with pytest.raises(Malformed):
        fitted(_Model, ["count"])
    assert fitted(_Model, {"count": 3, "more": 1}) == _Model(count=3)


@pytest.mark.parametrize("text", ["", "x", "٣", "1.0", "1e3", "9" * 5000, "256", "-2", "+1", "1 2"])
def test_a_status_is_a_small_number_in_ascii(text: str) -> None:
    """Python reads more than that as a number."""
    with pytest.raises(Malformed):
        whole(text, -1, 255)
    assert [whole(one, -1, 255) for one in ("-1", "0\n", " 255 ")] == [-1, 0, 255]
