"""What is measured: rows and the command's options. Torch-free, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FAMILIES = ("sd15", "sd2", "sdxl")


@dataclass(frozen=True)
class Row:
    """One measurement. ``side`` in pixels, 0 for the family's own; ``sides`` more sizes to alternate with."""

    family: str
    level: str
    batch: int
    rank: int = 32
    side: int = 0
    text: bool = False
    adapters: int = 1
    steps: int = 12
    tiny: bool = False
    sides: tuple[tuple[int, int], ...] = ()


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Every level at every batch size."""
    for level in options.levels.split(","):
        for batch in options.batch.split(","):
            yield Row(
                options.family,
                level,
                int(batch),
                rank=options.rank,
                side=options.side,
                text=options.text,
                adapters=options.adapters,
                steps=options.steps,
                tiny=options.tiny,
            )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--family", choices=FAMILIES, default="sd15")
    parser.add_argument("--batch", default="1", help="batch sizes, with commas")
    parser.add_argument("--levels", default="plain,merged,merged+graph,stacked+graph", help="with commas")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--side", type=int, default=0, help="pixels; default: the family's own")
    parser.add_argument("--adapters", type=int, default=1, help="LoRAs trained at once over one base")
    parser.add_argument("--text", action="store_true", help="train the text encoders too")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--profile", type=int, default=0, metavar="LINES", help="the longest kernels, on a GPU")
    parser.add_argument("--tiny", action="store_true", help="a model of a few layers, to try the command itself")
    parser.add_argument("--out", type=Path, help="append the lines to this file as well")
