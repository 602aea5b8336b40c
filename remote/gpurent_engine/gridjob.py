"""The grid that a client orders once the LoRA is at home: drawn from the job that trained it, said in events.

The order is ``grid.json``: the path of the training's ``job.json``, the file of its output folder to draw with, the
picture's name, rows, strengths, and how long it may take. See ``docs/reference/events.md``.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpurent_engine import training
from gpurent_engine.events import EventWriter
from gpurent_engine.spec import SpecError, TrainSpec

if TYPE_CHECKING:
    from gpurent_engine.bases import Opener

MOST = 1 << 20
"""Bytes of an order."""
LONGEST_S = 86_400.0
KEYS = frozenset(("job", "events", "lora", "picture", "rows", "strengths", "steps", "side", "within_s"))
SURE, FAR = 0.1, 5.0
"""From this share on, the time that the rest will take is believed; before, if it is so many times what is left."""


class TooSlow(Exception):
    """It would not be done in its time."""


@dataclass
class _Clock:
    """Says how far the drawing is, and ends it when the rest surely takes too long."""

    until: float
    out: EventWriter
    warm: tuple[float, float] | None = None
    """When the first step was over, in which libraries choose and compile, and how far it was then."""
    said: int = -1

    def drawn(self, done: float, total: int) -> None:
        """Called with pictures drawn so far, in parts of them, and in all. Raises TooSlow."""
        now = time.monotonic()
        if int(done) > self.said:
            self.said = int(done)
            self.out.emit("drawing", done=self.said, total=total)
        if self.warm is None:
            self.warm = (now, done) if done else None
            return
        begun, first = self.warm
        rest_s = (now - begun) / (done - first) * (total - done) if done > first else 0.0
        left_s = self.until - now
        if rest_s > left_s * (1.0 if done >= SURE * total else FAR) or left_s < 0:
            said = f"{total - done:.0f} pictures more would take {rest_s:.0f} s, and {max(0.0, left_s):.0f} s are left."
            raise TooSlow(said)


def run(path: Path, opener: Opener | None = None) -> int:
    """Draw what is ordered; return the exit status. Whatever happens is said in the order's ``events``."""
    try:
        order = _read(path)
    except (SpecError, OSError) as error:
        print(f"gpurent_engine: {path.name}: {error}", file=sys.stderr, flush=True)
        return training.REFUSED
    until = time.monotonic() + order["within_s"]
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(order["within_s"]) + 30)  # ends what hangs in a library, if no client is left to end it
    try:
        with EventWriter(Path(order["events"])) as out:
            try:
                _draw(order, out, _Clock(until, out).drawn, opener)
            except Exception as error:  # noqa: BLE001 - as in ``training.train``
                traceback.print_exception(error)
                code, message, remedy = training.diagnose(error)
                code = "slow" if isinstance(error, TooSlow) else code
                out.emit("error", code=code, message=message, remedy=remedy)
                return training.FAILED
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return training.DONE


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MOST:
        raise SpecError(path.name, "is too long for an order.")
    try:
        order = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpecError(path.name, f"is not valid JSON: {error}.") from error
    missing = KEYS - set(order) if isinstance(order, dict) else KEYS
    if missing:
        raise SpecError(sorted(missing)[0], f"is missing in {path}.")
    within_s = order["within_s"]
    if not isinstance(within_s, int | float) or not 0 < within_s <= LONGEST_S:
        raise SpecError("within_s", f"must be a number of seconds up to {LONGEST_S:.0f}.")
    found: dict[str, Any] = order
    return found


def _draw(
    order: dict[str, Any], out: EventWriter, on_drawn: Callable[[float, int], None], opener: Opener | None
) -> None:
    job = training.read_order(Path(order["job"]))
    spec = TrainSpec.from_dict(job["spec"])
    out.emit("phase", name="load")

    from gpurent_engine import bases, checkpoint, device, sample, starting

    choice = device.choose(spec.mixed_precision)
    vae = str(starting.located(Path(job["data_dir"]), spec.vae)) if spec.vae else ""
    # exactly as the training had it: a process that serves still has it in memory
    source = sample.Source(job["base_model"], choice.mixed_precision != "no", vae, choice.base_dtype)
    rows = [sample.Prompt(one["text"], int(one["seed"]), one["negative"], one["label"]) for one in order["rows"]]
    settings = sample.Settings(steps=int(order["steps"]), side=int(order["side"]), clip_skip=spec.clip_skip or 0)
    folder = Path(job["out_dir"])
    picture = sample.grid(
        source,
        folder / order["lora"],
        rows,
        order["strengths"],
        settings=settings,
        on_drawn=on_drawn,
        opener=opener or bases.opened,
        spec=spec,
    )
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    written = checkpoint.write(folder, order["picture"], [data.getvalue()])
    out.emit("grid", path=written.path, sha256=written.sha256, size=written.size)
