"""Seconds from the engine's start to its first step, phase by phase. ``python -m bench.start``

A fresh process each round: the tiny model, 50 pictures, no cache of latents. The baseline is a process that imports the
classes which the engine uses, in the ordinary way, and does nothing with them. Packages come from the page cache where
an earlier round has left them there, as on a machine that has just installed them. ``--profile`` adds the packages
whose import takes longest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PICTURES = 50
BASELINE = """
import torch, transformers, peft, accelerate
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection
torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
"""
PHASES = ("hello", "cache", "cached", "plan", "step")
NAMES = (
    "torch imported",
    "dataset read, packages imported, base loaded",
    "pictures encoded",
    "adapters and optimiser made",
    "first step",
)
FRACTIONS = 3
"""Words of a line of ``-X importtime``: own microseconds, all, name."""


def dataset(folder: Path) -> Path:
    """Fifty pictures with captions, made of those of the example."""
    source = sorted((ROOT / "examples" / "fluent-style" / "training_data").rglob("*.png"))
    target = folder / "data" / "1_bench"
    target.mkdir(parents=True)
    for index in range(PICTURES):
        picture = source[index % len(source)]
        for file in (picture, picture.with_suffix(".txt")):
            shutil.copy(file, target / f"{index:02d}{file.suffix}")
    config = folder / "config.toml"
    config.write_text(
        f'pretrained_model_name_or_path = "{ROOT / "examples" / "tiny-sd"}"\ntrain_data_dir = "{target.parent}"\n'
        f'output_dir = "{folder / "out"}"\noutput_name = "bench"\nresolution = 64\ntrain_batch_size = 2\n'
        'max_train_steps = 1\nnetwork_dim = 8\nmixed_precision = "no"\n',
        encoding="utf-8",
    )
    return config


def processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start(config: Path, *python: str) -> tuple[dict[str, float], str]:
    """Train one step in a fresh process; seconds since its start at each event, and what it said on stderr."""
    out = config.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    begun = time.time()
    command = [sys.executable, *python, "-m", "gpurent_engine", "train", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = {}
    for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        name = event["name"] if event["event"] == "phase" else event["event"]
        found.setdefault(name, event["t"] - begun)
    return found, done.stderr


def imports(text: str, most: int = 12) -> list[tuple[str, float]]:
    """Seconds by top-level package, from what ``-X importtime`` writes."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and len(parts) == FRACTIONS and parts[0].strip().isdigit():
            found[parts[2].strip().partition(".")[0]] += int(parts[0])
    return [(name, spent / 1e6) for name, spent in found.most_common(most)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also the packages whose import takes longest")
    options = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    plain: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = dataset(Path(folder))
        for _ in range(options.rounds):
            used = processor_s()
            rounds.append(start(config)[0] | {"processor": processor_s() - used})
            used, begun = processor_s(), time.perf_counter()
            subprocess.run([sys.executable, "-c", BASELINE], check=True)
            plain.append((time.perf_counter() - begun, processor_s() - used))
        profile = imports(start(config, "-X", "importtime")[1]) if options.profile else []
    middle = {name: statistics.median(one[name] for one in rounds) for name in (*PHASES, "done", "processor")}
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; medians of {options.rounds}")
    for name, (before, after) in zip(NAMES, pairwise(("", *PHASES)), strict=True):
        print(f"{middle[after] - middle.get(before, 0.0):6.2f} s  {name}")
    print(
        f"{middle['step']:6.2f} s  from the start to the first step; to the end, saved and proved: {middle['done']:.2f}"
    )
    wall, used = (statistics.median(one[i] for one in plain) for i in (0, 1))
    print(f"{wall:6.2f} s  baseline: the same classes imported in the ordinary way; ratio {middle['step'] / wall:.2f}")
    print(
        f"processor time: {middle['processor']:.2f} s for the whole training, {used:.2f} s for the baseline's imports"
    )
    for name, spent in profile:
        print(f"{spent:6.2f} s  importing {name} (measured with -X importtime, which makes it slower)")


if __name__ == "__main__":
    main()
