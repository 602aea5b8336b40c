"""Kernels equal their formulas, line by line in Triton's interpreter, and compile for the cards that people rent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.thorough import often

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5
CARDS = {"ampere and blackwell": (80, 120), "ada and hopper": (89, 90)}
GROUPS = (
    "group_norms",
    "layer_norms pointwise linears updates",
    "whole_kernels",
    "whole_stacked",
    "whole_feed_forward",
)
"""What one process checks: the import of torch takes as long as a small check."""
USUAL = (*GROUPS[:2], "whole_feed_forward")
"""Every kernel by itself, and together in a step that has all switches on."""
pytest.importorskip("triton", reason="Triton has no build for this platform")


def lines(module: str, *arguments: str, **environ: str) -> list[dict[str, Any]]:
    """What a module of checks prints, in a process of its own: Triton decides at import whether it interprets."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "remote"), "OMP_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("group", often(GROUPS, USUAL))
def test_kernels_give_what_torch_gives_in_double_precision(group: str) -> None:
    found = lines("tests.step.kernel_checks", *group.split(), TRITON_INTERPRET="1")
    assert {one["group"] for one in found} == set(group.split())
    for one in found:
        assert "raised" not in one, one["raised"]
        assert all(error < TOLERANCE for error in one["errors"].values()), one


@pytest.mark.parametrize("cards", often(CARDS, ["ampere and blackwell"]))
def test_kernels_compile_for_the_cards_that_people_rent(cards: str, tmp_path: Path) -> None:
    """With Triton's own compiler and no GPU; loads and stores of half precision move 16 bytes at a time."""
    targets = CARDS[cards]
    found = lines("tests.step.kernel_builds", *map(str, targets), TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert {one["target"] for one in found} == set(targets)
    for one in found:
        assert one["bytes"] > 0, one
        assert one["wide"] or not one["streams"], f"{one['kernel']} moves less than 16 bytes at a time"
