"""Seconds per optimiser step of the engine, against the same training written by hand. ``python -m bench.engine``

The baseline is ``tests/engine/plain_loop.py``: diffusers and peft, latents encoded once, float32, no events, no state.
Loading is taken out by the difference between a long and a short run of each.
"""

from __future__ import annotations

import platform
import tempfile
import threading
from pathlib import Path

import torch
from tests.engine import plain_loop

from bench.measure import compare, say
from gpurent_engine.events import EventWriter
from gpurent_engine.loop import Order, train
from gpurent_engine.reading import parse_spec

ROOT = Path(__file__).resolve().parent.parent
BASE, DATA = ROOT / "examples" / "tiny-sd", ROOT / "examples" / "fluent-style" / "training_data"
SHORT, LONG, ROUNDS = 10, 60, 3
SIZE, BATCH, RANK, RATE, SEED = 64, 4, 8, 1e-3, 3


def engine(steps: int) -> None:
    spec = parse_spec({
        "pretrained_model_name_or_path": "base", "resolution": SIZE, "train_batch_size": BATCH, "network_dim": RANK,
        "network_alpha": RANK, "unet_lr": RATE, "text_encoder_lr": RATE, "seed": SEED, "max_train_steps": steps,
        "mixed_precision": "no", "output_name": "bench",
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as out, EventWriter(Path(out) / "events.jsonl") as writer:
        train(Order(spec, str(BASE), DATA, Path(out)), writer, threading.Event())


def plain(steps: int) -> None:
    (folder,) = (one for one in DATA.iterdir() if one.is_dir())
    plain_loop.losses(
        BASE, folder, int(folder.name.split("_")[0]), size=SIZE, batch=BATCH, rank=RANK, alpha=RANK, unet_lr=RATE,
        text_lr=RATE, seed=SEED, steps=steps, scheduler="constant", warmup=0, total=steps,
    )  # fmt: skip


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    short = compare(lambda: engine(SHORT), lambda: plain(SHORT), ROUNDS)
    long = compare(lambda: engine(LONG), lambda: plain(LONG), ROUNDS)
    steps = LONG - SHORT
    ours, base = (long.ours - short.ours) / steps, (long.baseline - short.baseline) / steps
    print(f"engine: {ours * 1000:.1f} ms a step; plain loop: {base * 1000:.1f} ms a step; ratio {ours / base:.2f}")
    say(f"whole run of {LONG} steps, loading and saving included", long, "plain loop, which saves nothing")


if __name__ == "__main__":
    main()
