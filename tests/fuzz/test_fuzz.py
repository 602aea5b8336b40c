"""No text from outside raises anything but the errors that are announced. ``make fuzz`` feeds a million of them."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.fuzz.targets import TARGETS, Target

INPUTS = int(os.environ.get("GPURENT_FUZZ", 0))
"""In all, over all parsers."""
EACH = INPUTS // len(TARGETS) or 60
MOST_MIB = 2048
SUPPRESSED = (
    HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example,
    HealthCheck.function_scoped_fixture,
)  # fmt: skip


@pytest.mark.timeout(7200 if INPUTS else 600)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_only_announced_errors_come_out(target: Target, tmp_path: Path, record_property: Any) -> None:
    """In bounded memory."""
    fed = 0

    @settings(max_examples=EACH, database=None, suppress_health_check=SUPPRESSED)
    @given(target.inputs)
    def feed(given: Any) -> None:
        nonlocal fed
        fed += 1
        try:
            target.act(given, tmp_path)
        except target.errors as error:
            assert "\x1b" not in str(error)

    feed()
    if INPUTS:
        record_property("measured", f"{fed:,} inputs")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MOST_MIB * 1024
