"""A stream of bytes becomes lines, each once, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent.errors import TransferFailed
from gpurent.jobs.follow import MAX_LINE, LineBuffer

LINES = st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1), max_size=20)


@given(LINES, st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_each_line_comes_once_and_in_order(lines: list[str], cuts: list[int]) -> None:
    """Cuts fall inside lines and inside characters; what was read is never asked for again."""
    whole = "".join(f"{line}\n" for line in lines).encode()
    buffer, found = LineBuffer(), []
    for step in [*cuts, *[7] * len(whole)]:
        piece = whole[buffer.offset : buffer.offset + step]
        found += buffer.feed(piece)
    assert found == [line for line in lines if line.encode().strip()]
    assert buffer.offset == len(whole)


@given(LINES, st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])))
def test_a_torn_last_line_waits_for_its_end(lines: list[str], torn: str) -> None:
    """What has no line end yet is not an event."""
    buffer = LineBuffer()
    found = buffer.feed(("".join(f"{line}\n" for line in lines) + torn).encode())
    assert found == [line for line in lines if line.encode().strip()]


def test_a_line_without_end_is_refused() -> None:
    """A host cannot fill our memory with one line."""
    buffer = LineBuffer()
    with pytest.raises(TransferFailed):
        buffer.feed(b"x" * (MAX_LINE + 1))
