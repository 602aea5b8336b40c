"""The levels of the fast step against a plain loop of diffusers and peft. ``python -m bench.levels``

One run, one machine: random weights at the real architecture, the same batches, a row a level with its ratio to
``plain``. On a CPU SD 1.5's UNet at 128 px in float32, which needs about 8 GB of memory and an idle machine; on a
GPU at the family's own size in bf16, with graphs. JSON lines to ``--out``, a table on the terminal.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from gpurent_engine.bench import measure
from gpurent_engine.bench.options import FAMILIES, Row
from gpurent_engine.step.switches import PLAIN

ON_A_CPU = f"{PLAIN},merged,stacked,stacked+blocks"
ON_A_GPU = f"{PLAIN},merged,merged+graph,kernels+graph,stacked+graph,stacked+graph+blocks"
CPU_SIDE = 128


def compare(row: Row, levels: list[str], device: torch.device) -> list[dict[str, Any]]:
    """Each level's measurement, with ``ratio``: its pictures a second over those of the first."""
    found: list[dict[str, Any]] = []
    for level in levels:
        torch.manual_seed(0)  # the same random base for each
        one = measure.attempt(Row(**{**row.__dict__, "level": level}), device)
        if "img_s" in one and found and "img_s" in found[0]:
            one["ratio"] = one["img_s"] / found[0]["img_s"]
        found.append(one)
        print(_line(one), flush=True)
    return found


def _line(one: dict[str, Any]) -> str:
    if "img_s" not in one:
        return f"{one['level']:24s} {one['error']}"
    return f"{one['level']:24s} {one['ms']:9.1f} ms {one['img_s']:8.2f} img/s   x {one.get('ratio', 1.0):.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 where a level could not run."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--family", choices=FAMILIES, default="sd15")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12 if cuda else 3)
    parser.add_argument(
        "--levels", default=ON_A_GPU if cuda else ON_A_CPU, help="with commas; the first is the baseline"
    )
    parser.add_argument("--tiny", action="store_true", help="a model of a few layers, to try the command itself")
    parser.add_argument("--out", type=Path, help="append JSON lines to this file")
    options = parser.parse_args(arguments)
    side = 0 if cuda or options.tiny else CPU_SIDE
    row = Row(options.family, PLAIN, options.batch, side=side, steps=options.steps, tiny=options.tiny)
    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{options.family}, batch {options.batch}, {where}, torch {torch.__version__}; ratio to {PLAIN}")
    found = compare(row, options.levels.split(","), torch.device("cuda" if cuda else "cpu"))
    if options.out is not None:
        with options.out.open("a", encoding="utf-8") as file:
            file.writelines(measure.line({"device": where, **one}) + "\n" for one in found)
    return int(any("error" in one for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
