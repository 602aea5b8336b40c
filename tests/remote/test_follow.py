"""A stream of bytes becomes lines, each once, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent.errors import BadHostData
from gpurent.jobs.events import MAX_LINE
from gpurent.jobs.follow import LineBuffer

LINES = st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1), max_size=20)


@given(LINES, st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_each_line_comes_once_and_in_order(lines: list[str], cuts: list[int]) -> None:
    """Cuts fall inside lines and inside characters; what was read is never asked for again."""
    whole = "".join(f"{line}\n" for line in lines).encode()
    buffer, found = LineBuffer(10**6), []
    for step in [*cuts, *[7] * len(whole)]:
        piece = whole[buffer.offset : buffer.offset + step]
        found += buffer.feed(piece)
    assert found == [line for line in lines if line.encode().strip()]
    assert buffer.offset == len(whole)


@given(LINES, st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])))
def test_a_torn_last_line_waits_for_its_end(lines: list[str], torn: str) -> None:
    """What has no line end yet is not an event."""
    buffer = LineBuffer(10**6)
    found = buffer.feed(("".join(f"{line}\n" for line in lines) + torn).encode())
    assert found == [line for line in lines if line.encode().strip()]


def test_a_line_without_end_is_refused() -> None:
    """A host cannot fill our memory with one line."""
    buffer = LineBuffer(10**6)
    with pytest.raises(BadHostData):
        buffer.feed(b"x" * (MAX_LINE + 1))


def test_more_than_the_plan_can_have_is_refused() -> None:
    """However short the lines are."""
    buffer = LineBuffer(100)
    buffer.feed(b"x\n" * 50)
    with pytest.raises(BadHostData, match="100 bytes"):
        buffer.feed(b"x")


def test_what_is_no_utf_8_is_refused() -> None:
    """A complete line has complete characters."""
    with pytest.raises(BadHostData, match="UTF-8"):
        LineBuffer(100).feed(b"\xff\xfe\n")
