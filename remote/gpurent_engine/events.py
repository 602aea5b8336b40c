"""What the engine says: one JSON object a line, flushed as written. Torch-free."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

_DURABLE = frozenset(("checkpoint", "state", "error", "done"))


class EventWriter:
    """Appends events to a file. ``step`` events are thinned to one in ``every_s`` seconds, first and last always."""

    def __init__(
        self, path: Path, *, every_s: float = 0.5, now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        self._seq = before.count(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if before and not before.endswith(b"\n"):  # a killed engine tore its last line
            self._file.write("\n")
            self._seq += 1
        self._every_s = every_s
        self._now = now
        self._monotonic = monotonic
        self._spoken = float("-inf")

    def __enter__(self) -> EventWriter:  # noqa: PYI034 - typing.Self is younger than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event. Numbers that JSON cannot hold (NaN, infinity) become null."""
        record = {"v": 1, "seq": self._seq, "t": round(self._now(), 3), "event": event, **fields}
        self._file.write(json.dumps(_finite(record), ensure_ascii=True, allow_nan=False) + "\n")
        self._file.flush()
        if event in _DURABLE:
            os.fsync(self._file.fileno())
        self._seq += 1

    def step_due(self, step: int, total: int) -> bool:
        """Whether a report of this step is wanted; says yes at most once in ``every_s`` seconds."""
        now = self._monotonic()
        if step in (1, total) or now - self._spoken >= self._every_s:
            self._spoken = now
            return True
        return False


def _finite(value: Any) -> Any:
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return round(value, 8)
    if isinstance(value, float):
        return None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
