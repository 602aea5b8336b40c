"""Everything that needs a GPU, in one run: first whether the fast step is right there, then how fast it is.

``python -m bench.gpu --out DIR [--minutes 8]`` writes ``DIR/checks.jsonl`` and ``DIR/rows.jsonl`` line by line, most
valuable first, and prints a table. Each group has a deadline after which it starts no row, and a process of its own: a
kernel that goes wrong takes its group's GPU context with it, and the group goes on behind the row that failed.
``--tiny`` tries the script itself on a CPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench import gpu_checks, gpu_engine, gpu_parts
from gpurent_engine.bench import measure
from gpurent_engine.bench.options import Row

GRAPH = "+graph"
GRACE_S, NO_CUDA = 25, 7
METHOD = ["fork"]
BUCKETS = ((512, 768), (768, 512), (576, 704), (704, 576), (448, 832))


def best(family: str) -> list[tuple[Row, int]]:
    """Rows and how many lines of the profiler, most valuable first."""
    batches, steps = ((4, 1, 2), 10) if family == "sdxl" else ((4, 1, 2, 8), 20)
    found = [(Row(family, "stacked" + GRAPH, batch, steps=steps), 45 if batch in (1, 4) else 0) for batch in batches]
    for level, sizes in (
        ("stacked+graph+cudnn", (4, 1)),
        ("kernels" + GRAPH, (4, 1)),
        ("merged" + GRAPH, (1, 4)),
    ):
        found += [(Row(family, level, batch, steps=8), 0) for batch in sizes]
    return found


def rest(family: str) -> list[tuple[Row, int]]:
    """Less urgent rows, most valuable first."""
    row = Row(family, "stacked" + GRAPH, 1, steps=8)
    found = [replace(row, text=True), replace(row, adapters=4), Row(family, "plain", 4, steps=6)]
    if family == "sd15":
        found += [replace(row, batch=2, steps=18, sides=BUCKETS), replace(row, adapters=8), replace(row, adapters=2)]
        found += [replace(row, batch=4, text=True), replace(row, batch=16)]
    found += [
        replace(row, rank=16),
        replace(row, batch=4, level="stacked+graph+blocks"),
        Row(family, "plain", 1, steps=6),
    ]
    found += [replace(row, batch=4, level="stacked+graph+feed-forward"), replace(row, level="stacked+graph+fp16")]
    found += [replace(row, level="stacked"), replace(row, batch=4, rank=16), replace(row, level="stacked+graph+blocks")]
    if family == "sdxl":
        found += [replace(row, batch=8)]
    return [(one, 0) for one in found]


class Lines:
    """JSON lines to a file and the terminal, each on disk before the next begins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, found: dict[str, Any]) -> None:
        text = measure.line(found)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(text if len(text) < 500 else text[:500] + "…", flush=True)


GROUPS: dict[str, tuple[float, Callable[[], list[tuple[Row, int]]] | None]] = {
    "checks": (0.14, None), "engine": (0.50, None), "sdxl-rest": (0.72, lambda: rest("sdxl")),
    "sd15-rest": (0.92, lambda: rest("sd15")), "sdxl": (1.0, lambda: best("sdxl")), "sd15": (1.0, lambda: best("sd15")),
    "parts": (1.0, None),
}  # fmt: skip
"""In order: by which share of the time each has to begin its last row, and its rows. Time that is left over goes on."""


def serve(name: str, first: int, deadline: float, out: Path, *, tiny: bool, at: Any) -> None:
    """One group from its row ``first`` on, in a process of its own; ``at`` tells the parent which row runs."""
    if torch.cuda.is_available():
        try:
            torch.zeros(1, device="cuda")
        except RuntimeError as error:
            print(f"# {name}: no CUDA in a forked process ({str(error)[:100]})", flush=True)
            os._exit(NO_CUDA)
    if name == "checks":
        gpu_checks.run(Lines(out / "checks.jsonl"), deadline)
        return
    if name == "engine":
        with tempfile.TemporaryDirectory() as folder:
            gpu_engine.run(Lines(out / "engine.jsonl"), Path(folder), tiny=tiny, deadline=deadline)
        return
    if name == "parts":
        gpu_parts.run(Lines(out / "parts.jsonl"), deadline)
        return
    make = GROUPS[name][1]
    assert make is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    say = Lines(out / "rows.jsonl")
    for index, (row, profile) in enumerate(make()):
        if index < first:
            continue
        if tiny:
            row = replace(row, tiny=True, steps=2, sides=tuple((64, 64 + 16 * i) for i in range(len(row.sides))))
        at.value = index
        if time.monotonic() > deadline:
            say({**asdict(row), "skipped": "deadline"})
            continue
        begun = time.monotonic()
        try:
            found = measure.attempt(row, device, profile=profile)
        except Exception as error:  # noqa: BLE001  # one row must not take the others with it
            say({**asdict(row), "error": f"{type(error).__name__}: {str(error)[:300]}",
                 "where": traceback.format_exc()[-1200:]})  # fmt: skip
            if "CUDA" in str(error) or "Triton" in type(error).__name__:
                os._exit(3)  # the context may be gone; a fresh process takes the next row
            continue
        say({**found, "wall_s": time.monotonic() - begun})


def group(name: str, deadline: float, options: argparse.Namespace) -> None:
    """Run a group; where a row kills its process, another goes on behind it.

    Processes are forked, which spares them twelve seconds of imports, unless CUDA does not start in a fork here.
    """
    begun = time.monotonic()
    first = 0
    while time.monotonic() < deadline:
        context: Any = multiprocessing.get_context(METHOD[0])
        at = context.Value("i", first)
        places = {"tiny": options.tiny, "at": at}
        child = context.Process(target=serve, args=(name, first, deadline, options.out), kwargs=places)
        child.start()
        # a row that hangs is cut off a while after the deadline, which is when the last one may begin
        child.join(max(1.0, deadline + GRACE_S - time.monotonic()))
        if child.is_alive():
            child.kill()
            child.join()
            print(f"# {name}: cut off in row {at.value}", flush=True)
            break
        if child.exitcode == NO_CUDA and METHOD[0] == "fork":
            METHOD[0] = "spawn"
            continue
        if child.exitcode == 0:
            break
        print(f"# {name}: row {at.value} ended its process with {child.exitcode}", flush=True)
        first = at.value + 1
        make = GROUPS[name][1]
        if make is None or first >= len(make()):
            break
    print(f"# {name}: {time.monotonic() - begun:.0f} s", flush=True)


def failures(found: list[dict[str, Any]]) -> None:
    """Checks that did not pass."""
    bad = [one for one in found if not one.get("ok")]
    print(f"# {len(found) - len(bad)} checks passed, {len(bad)} did not")
    for one in bad:
        print(f"#   {json.dumps(one)[:500]}")


def engine_table(found: list[dict[str, Any]]) -> None:
    """Trainings: seconds to each phase, speed, what differs."""
    for one in found:
        numbers = {
            key: round(one[key], 3)
            for key in ("hello_s", "cache_s", "train_s", "first_step_s", "whole_s", "it_s", "peak_gb", "loss", "up")
            if isinstance(one.get(key), float)
        }
        said = [one.get("level", ""), one.get("error", ""), one.get("skipped", ""), *one.get("warnings", [])]
        print(f"{'ok ' if one.get('ok') else 'NOT'} {one['check']}", numbers, " | ".join(filter(None, said))[:240])


def parts_table(found: list[dict[str, Any]]) -> None:
    """Parts, short."""
    for part in found:
        numbers = {key: round(value) for key, value in part.items() if isinstance(value, float)}
        print(part["part"], part.get("of", ""), part.get("shape", ""), numbers, part.get("error", "")[:60])


def table(found: list[dict[str, Any]]) -> None:
    """The rows, short enough for the end of a log."""
    for row in found:
        name = f"{row['family']} {row['level']}" + "".join(
            f" {key}{row[key]}" for key in ("adapters", "rank") if row.get(key) not in (1, 32)
        )
        name += " text" if row.get("text") else ""
        name += " buckets" if row.get("sides") else ""
        if "img_s" in row:
            print(
                f"{name:42s} b{row['batch']:<2d} {row['ms']:8.2f} ms {row['img_s']:7.2f} img/s",
                f"{row.get('mfu', 0):5.1f}% {row.get('gb', 0):5.1f}/{row.get('reserved_gb', 0):5.1f} GB",
                f"first {row['first_s']:5.1f} ready {row['ready_s']:5.1f} rec {row.get('record_s', 0):5.2f}",
                f"loss {row['loss']:.3f}",
            )
        else:
            print(f"{name:42s} b{row['batch']:<2d} {row.get('error', row.get('skipped', ''))[:120]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", default=",".join(GROUPS), help="groups, with commas")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script itself on a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    taken = []
    for module in (
        "diffusers.models.unets.unet_2d_condition",
        "transformers.models.clip.modeling_clip",
        "peft",
        "accelerate",
    ):
        now = time.monotonic()
        importlib.import_module(module)  # once, before the groups fork
        taken.append(f"{module.partition('.')[0]} {time.monotonic() - now:.1f} s")
    print(f"# python {sys.version.split()[0]}, torch {torch.__version__}; imports: {', '.join(taken)}", flush=True)
    wanted = [name for name in GROUPS if name in options.only.split(",")]
    shares = {name: GROUPS[name][0] for name in wanted}
    total = options.minutes * 60 - GRACE_S / 2 - (time.monotonic() - begun)
    start = time.monotonic()
    for name in wanted:
        group(name, start + total * shares[name] / max(shares.values()), options)
    cache = Path(os.environ.get("TRITON_CACHE_DIR", Path.home() / ".triton" / "cache"))
    files = [file for file in cache.rglob("*") if file.is_file()] if cache.is_dir() else []
    kernels = sum(file.suffix == ".cubin" for file in files)
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"# Triton's cache: {kernels} kernels, {size:.1f} MB; {time.monotonic() - begun:.0f} s in all", flush=True)
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=name,clocks.sm,power.draw,driver_version", "--format=csv,noheader"]
        print("#", subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())
    shown = (("parts", parts_table), ("rows", table), ("engine", engine_table), ("checks", failures))
    for name, show in shown:
        path = options.out / f"{name}.jsonl"
        if path.exists():
            show([json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()])


if __name__ == "__main__":
    main()
