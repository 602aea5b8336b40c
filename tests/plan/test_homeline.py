"""What this computer's line carries is remembered, and forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpurent.jobs.homeline import FILE, KEPT, LATELY_S, recall, remember
from gpurent.model import Line


def test_the_best_of_the_last_machines_counts(tmp_path: Path) -> None:
    """One slow machine does not make the home line slow; one fast afternoon elsewhere does not count for ever."""
    assert recall(tmp_path, 0.0) is None
    remember(tmp_path, 1.0, Line(500.0, 500.0))
    for at in range(KEPT):
        remember(tmp_path, 2.0 + at, Line(10.0 + at, 40.0 - at))
        assert recall(tmp_path, 5.0) == (Line(500, 500) if at < KEPT - 1 else Line(12, 40))
    assert recall(tmp_path, 10.0 + LATELY_S) is None
    assert [one.name for one in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("damage", [b"", b"\xff", b"[]", b'{"lines": [{"at": 1}]}', b'{"lines": ["x"]}', b"x" * 10_000])
def test_a_damaged_memory_is_none(tmp_path: Path, damage: bytes) -> None:
    """It is written again with the next machine."""
    (tmp_path / FILE).write_bytes(damage)
    assert recall(tmp_path, 0.0) is None
    remember(tmp_path, 1.0, Line(1, 2))
    assert recall(tmp_path, 2.0) == Line(1, 2)
