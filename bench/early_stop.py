"""What early stopping saves on the example, and what it costs. ``python -m bench.early_stop``

The example is trained twice with a fifth of its pictures held out: to the end of its epochs, and until the held-out
pictures get no better. For each: optimiser steps, and the loss of the held-out pictures with the finished file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.engine.effect import EXAMPLES

from gpurent_engine.events import EventWriter
from gpurent_engine.loop import Order, train
from gpurent_engine.reading import parse_spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--patience", type=int, default=4)
    options = parser.parse_args()
    print("| training | steps | best step | held-out loss before | at the end | of the finished file |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, keys in (("whole", {}), ("early stopping", {"early_stopping_patience": options.patience})):
        with tempfile.TemporaryDirectory() as folder:
            told = _train(Path(folder), {"max_train_epochs": options.epochs, "unet_lr": options.rate, **keys})
        looks = {one["step"]: one["loss"] for one in told if one["event"] == "validation"}
        (done,) = (one for one in told if one["event"] == "done")
        best = min((step for step in looks if step), key=lambda step: looks[step])
        finished = looks[best] if keys else looks[done["steps"]]
        row = f"{looks[0]:.4f} | {looks[done['steps']]:.4f} | {finished:.4f}"
        print(f"| {name} | {done['steps']} | {best} | {row} |", flush=True)


def _train(out: Path, keys: dict[str, Any]) -> list[dict[str, Any]]:
    """Train and return the events."""
    spec = parse_spec({
        "pretrained_model_name_or_path": "base", "resolution": 64, "train_batch_size": 4, "network_dim": 8,
        "network_alpha": 8, "text_encoder_lr": 3e-4, "seed": 7, "output_name": "early", "validation_split": 0.2,
        **keys,
    })  # fmt: skip
    example = EXAMPLES / "fluent-style" / "training_data"
    (one,) = example.iterdir()
    data = out / "data"
    data.mkdir()
    (data / f"1_{one.name.partition('_')[2]}").symlink_to(one)
    path = out / "events.jsonl"
    with EventWriter(path) as writer:
        train(Order(spec, str(EXAMPLES / "tiny-sd"), data, out), writer, threading.Event())
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
