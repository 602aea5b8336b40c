"""Run the engine in this process and read what it said."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpurent_engine import proof
from gpurent_engine.events import EventWriter
from gpurent_engine.loop import Order, Result, train
from gpurent_engine.reading import parse_spec
from gpurent_engine.spec import TrainSpec

# A proof draws two pictures after each training; whether they differ shows in few steps as well.
proof.PICTURE_STEPS = 2


@dataclass(frozen=True)
class Told:
    """What a training gave back and what it said on the way."""

    result: Result
    events: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Events of one kind."""
        return [one for one in self.events if one["event"] == kind]

    @property
    def losses(self) -> list[float]:
        """Loss of each optimiser step."""
        return [one["loss"] for one in self.of("step")]


class Heard(EventWriter):
    """Reports every step, and lets the test act on each event."""

    def __init__(self, path: Path, on_event: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(path, every_s=0.0)
        self._on_event = on_event

    def emit(self, event: str, **fields: Any) -> None:
        super().emit(event, **fields)
        self._on_event({"event": event, **fields})


def spec(**keys: object) -> TrainSpec:
    """A configuration that trains the tiny model in seconds."""
    defaults: dict[str, object] = {
        "pretrained_model_name_or_path": "base", "resolution": 32, "train_batch_size": 2, "max_train_epochs": 2,
        "network_dim": 4, "network_alpha": 2, "unet_lr": 1e-2, "text_encoder_lr": 1e-3, "output_name": "disc",
        "save_precision": "float", "seed": 5,
    }  # fmt: skip
    return parse_spec({key: value for key, value in {**defaults, **keys}.items() if value is not None})


def events(path: Path) -> list[dict[str, Any]]:
    """All events in a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(
    the_spec: TrainSpec, base: Path, pictures: Path, out: Path, *, resume: bool = False, stop_file: Path | None = None,
    stop: threading.Event | None = None, plan_file: Path | None = None, step: str = "",
    on_event: Callable[[dict[str, Any]], None] = lambda _event: None,
) -> Told:  # fmt: skip
    """Train; every step is reported."""
    order = Order(the_spec, str(base), pictures, out, stop_file, resume, plan_file, step)
    path = out / "events.jsonl"
    before = len(events(path)) if path.exists() else 0
    with Heard(path, on_event) as writer:
        result = train(order, writer, stop or threading.Event())
    return Told(result, events(path)[before:])
