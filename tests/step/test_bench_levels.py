"""``bench.levels`` runs to its end on a CPU, and its levels train the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import levels


def test_the_bench_of_levels_says_each_levels_ratio_to_the_plain_loop(tmp_path: Path) -> None:
    out = tmp_path / "levels.jsonl"
    assert levels.main(["--tiny", "--steps", "2", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["level"] for row in rows] == levels.ON_A_CPU.split(",")
    assert "ratio" not in rows[0] and all(row["ratio"] > 0 for row in rows[1:])
    fast = [row["loss"] for row in rows[1:]]
    assert fast == pytest.approx([fast[0]] * len(fast), rel=1e-3)
