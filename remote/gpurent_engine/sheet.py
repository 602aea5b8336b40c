"""The sheet that a grid is drawn on, in pixels. Torch-free: the client expects a picture of exactly this size."""

from __future__ import annotations

MARGIN, GAP, HEADER, LABEL = 16, 6, 34, 190
CELL = 192
"""Side of each picture on the sheet."""
AT_ONCE = 8 * 512 * 512
"""Pixels that are drawn at once; fewer where they do not fit into memory."""


def size(rows: int, columns: int, cell: int = CELL) -> tuple[int, int]:
    """Width and height of the sheet."""
    return 2 * MARGIN + LABEL + columns * (cell + GAP), 2 * MARGIN + HEADER + rows * (cell + GAP)


def at_once(side: int) -> int:
    """Pictures of ``side`` pixels that are drawn at once."""
    return max(1, AT_ONCE // side**2)
