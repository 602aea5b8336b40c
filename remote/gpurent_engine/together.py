"""Train several LoRAs at once: a thread for each, one base and one step for all. See ``pack.py``."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from gpurent_engine import device
from gpurent_engine.bases import Opener, opened
from gpurent_engine.events import EventWriter
from gpurent_engine.loop import Order, Result, follow, train
from gpurent_engine.pack import Pack
from gpurent_engine.setup import Run, prepare
from gpurent_engine.step.build import UnsupportedError
from gpurent_engine.step.switches import PLAIN

Task = tuple[Order, EventWriter]
Outcome = Result | Exception


def train_together(tasks: Sequence[Task], stop: threading.Event, opener: Opener = opened) -> list[Outcome]:
    """Train all of them and return how each ended; one that fails leaves the others alone.

    Where they cannot share a step they are trained one after the other, and each is told why.
    """
    found: list[Outcome | None] = [None] * len(tasks)
    try:
        started = time.monotonic()
        runs = _prepared(tasks, found, opener)
    except UnsupportedError as error:
        for _, out in tasks:
            said = f"These trainings cannot be packed: {error}. They are trained one after the other."
            out.emit("warning", key="pack", message=said)
        return [_alone(order, out, stop, opener) for order, out in tasks]
    threads = [
        threading.Thread(
            target=_follow,
            args=(index, run, tasks[index][1], stop),
            kwargs={"started": started, "found": found},
            name=f"lane {index}",
        )
        for index, run in runs.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one if one is not None else RuntimeError("it ended without a result") for one in found]


def _prepared(tasks: Sequence[Task], found: list[Outcome | None], opener: Opener) -> dict[int, tuple[Run, Pack]]:
    """The runs whose data and configuration are sound; why the others are not goes into ``found``.

    Raises:
        UnsupportedError: they cannot share a step.
    """
    level = tasks[0][0].step
    here = device.choose(tasks[0][0].spec.mixed_precision).device.type
    if level == PLAIN or (not level and here != "cuda"):
        raise UnsupportedError("the plain step is taken" if level else "there is no GPU")
    if len({order.base_model for order, _ in tasks}) > 1:
        raise UnsupportedError("they are on different base models")
    pack = Pack(level)
    runs: dict[int, tuple[Run, Pack]] = {}
    for index, (order, out) in enumerate(tasks):
        run = _one(order, out, pack, opener)
        if isinstance(run, Exception):
            found[index] = run
        else:
            runs[index] = run, pack
    if runs:
        said, notes = pack.build()
        for index in runs:
            tasks[index][1].emit("stepper", level=said, reason=" ".join((f"{len(runs)} LoRAs at once.", *notes)))
    return runs


def _one(order: Order, out: EventWriter, pack: Pack, opener: Opener) -> Run | Exception:
    try:
        return prepare(order, out, opener=opener, pack=pack)
    except UnsupportedError:
        raise
    except Exception as error:  # noqa: BLE001 - the outcome of this one
        return error


def _follow(
    index: int, run: tuple[Run, Pack], out: EventWriter, stop: threading.Event, *, started: float,
    found: list[Outcome | None],
) -> None:  # fmt: skip
    the_run, pack = run
    with pack.baton:
        lane: Any = the_run.stepper
        try:
            found[index] = follow(the_run, out, stop, started)
        except Exception as error:  # noqa: BLE001 - the outcome of this one
            found[index] = error
        finally:
            pack.leave(lane.inner)  # the lane inside the stepper that fits steps into memory


def _alone(order: Order, out: EventWriter, stop: threading.Event, opener: Opener) -> Outcome:
    try:
        return train(order, out, stop, opener=opener)
    except Exception as error:  # noqa: BLE001 - the outcome of this one
        return error
