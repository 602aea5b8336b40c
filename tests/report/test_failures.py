"""Recorded failures are recognised, and say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpurent.report.failures import ENGINE_CODES, TABLE, UNKNOWN, diagnose

RECORDED = sorted((Path(__file__).parent / "data" / "failures").glob("*.txt"))


@pytest.mark.parametrize("path", RECORDED, ids=[path.stem for path in RECORDED])
def test_a_recorded_failure_is_recognised(path: Path) -> None:
    """The file's name is the failure's code."""
    assert diagnose(path.read_text(encoding="utf-8")).code == path.stem.partition("-")[0]


def test_every_failure_with_signs_was_recorded() -> None:
    """A sign that nobody ever saw proves nothing."""
    seen = {path.stem.partition("-")[0] for path in RECORDED}
    assert {one.code for one in TABLE if one.signs} <= seen


@pytest.mark.parametrize("code", ENGINE_CODES)
def test_what_the_engine_names_needs_no_signs(code: str) -> None:
    """Its own code goes before whatever else the log may hold."""
    assert diagnose("No space left on device", code).code == ENGINE_CODES[code]


def test_every_failure_says_cause_remedy_and_next_command() -> None:
    """And no two have one code."""
    assert all(one.cause and one.remedy and one.command for one in (*TABLE, UNKNOWN))
    assert len({one.code for one in TABLE}) == len(TABLE)
