"""One process that trains job after job: imports and base model are paid for once.

A client hands over a job by a file in the folder of orders, which appears whole: ``1.json``, ``2.json`` and so on, each
``{"job": "/path/to/job.json"}``, or ``{"grid": "/path/to/grid.json"}`` for the grid of one that was trained. Into the
folder of that file go, as for a process of its own: ``pid`` (of the process group), ``log.txt``, the events, and at the
end ``status``. The number after the last job that was taken is the
only one that is looked for, so that an order which is written twice is carried out once.

It ends when nothing was ordered for a while. Before, it takes the next number itself, with an empty file that must not
exist yet: a client with an order finds the number taken and starts another process. After a job that failed it ends
as well, for what such a job leaves behind on a GPU is anyone's guess.

No job can tell that others were trained before it: its base model is a copy, all that is random is drawn from
generators of its own, and what libraries keep for a process (accelerate's state, cuDNN's switches, the environment) is
put back.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gpurent_engine import gridjob, training
from gpurent_engine.spec import SpecError

if TYPE_CHECKING:
    from gpurent_engine.bases import Opener

IDLE_S = 300.0
LONGEST_IDLE_S = 3600.0
LOOK_S = 0.1
"""Between two looks for an order."""
MOST = 64 << 10
"""Bytes of an order."""


def seconds(text: str) -> float:
    """Of idleness, from the command line. Raises argparse's error."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= LONGEST_IDLE_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to {LONGEST_IDLE_S:.0f}")
    return found


def serve(orders: Path, idle_s: float, opener: Opener | None = None) -> int:
    """Train what is ordered in this folder until nothing was for ``idle_s`` seconds; return the exit status.

    ``opener`` reads base models; without one the last is kept in memory.
    """
    stop = threading.Event()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # into the log of the job: asked for where it hangs
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    orders.mkdir(parents=True, exist_ok=True)
    cleaner = _Cleaner(opener)
    count, since = 1, time.monotonic()
    while not stop.is_set():
        order = orders / f"{count}.json"
        if order.exists():
            status = _one(order, stop, cleaner)
            if status not in (training.DONE, training.STOPPED):
                return status
            count, since = count + 1, time.monotonic()
        elif time.monotonic() - since > idle_s and _closed(order):
            return training.DONE
        else:
            time.sleep(LOOK_S)
    return training.STOPPED


def _closed(order: Path) -> bool:
    """Take a number that nobody has used; False if an order came in between."""
    try:
        order.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _one(order: Path, stop: threading.Event, cleaner: _Cleaner) -> int:
    """Train one job, or draw its grid, as if it had a process of its own; return its exit status."""
    try:
        kind, path = _ordered(order)
        job = training.read_order(path) if kind == "job" else {}
    except (SpecError, OSError) as error:
        print(f"gpurent_engine: {order.name}: {error}", file=sys.stderr, flush=True)
        return training.REFUSED
    folder = path.parent
    _write(folder / "pid", f"{os.getpgid(0)}\n")
    with _logged(folder / "log.txt"), cleaner:
        if kind == "job":
            status = training.train(job, Path(job["events"]), stop, cleaner.opener())
        else:
            status = gridjob.run(path, cleaner.opener())
    _write(folder / "status", f"{status}\n")
    return status


def _ordered(order: Path) -> tuple[str, Path]:
    """``job`` or ``grid``, and the file that an order names. Raises SpecError, OSError."""
    if order.stat().st_size > MOST:
        raise SpecError(order.name, "is too long for an order.")
    try:
        found = json.loads(order.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpecError(order.name, f"is not valid JSON: {error}.") from error
    kind = "grid" if isinstance(found, dict) and "grid" in found else "job"
    path = found.get(kind) if isinstance(found, dict) else None
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise SpecError(kind, f"must be the absolute path of a {kind}.json.")
    return kind, Path(path)


def _write(path: Path, text: str) -> None:
    """A small file that appears whole."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="ascii")
    part.replace(path)


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What this process prints goes into the log of the job, also what libraries in C print."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with path.open("ab") as log:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, _ in kept:
                os.dup2(log.fileno(), number)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in kept:
                os.dup2(old, number)
                os.close(old)


class _Cleaner:
    """Puts a process back into the state in which it began, around each job; keeps the base model."""

    def __init__(self, opener: Opener | None) -> None:
        self._opener = opener
        self._environ = dict(os.environ)
        self._undo: list[Callable[[], object]] = []

    def opener(self) -> Opener | None:
        """Reads base models, and keeps them; None where there is no torch, of which the training will complain."""
        if self._opener is None:
            with contextlib.suppress(ImportError):
                from gpurent_engine.bases import Kept

                self._opener = Kept()
        return self._opener

    def __enter__(self) -> None:
        self._undo = [partial(os.environ.update, self._environ)]
        with contextlib.suppress(ImportError):
            import torch

            cudnn, matmul, filling = torch.backends.cudnn, torch.backends.cuda.matmul, torch.utils.deterministic
            self._undo += [
                partial(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled()),
                partial(torch.set_grad_enabled, torch.is_grad_enabled()),
                partial(setattr, filling, "fill_uninitialized_memory", filling.fill_uninitialized_memory),  # type: ignore[attr-defined]
                partial(setattr, cudnn, "benchmark", cudnn.benchmark),
                partial(setattr, cudnn, "allow_tf32", cudnn.allow_tf32),
                partial(setattr, matmul, "allow_tf32", matmul.allow_tf32),
                gc.collect,  # modules and their hooks refer to each other
            ]
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
                self._undo.append(torch.cuda.empty_cache)

    def __exit__(self, *_error: object) -> None:
        state = sys.modules.get("accelerate.state")
        if state is not None:  # it is one for a process, and refuses a second precision
            for kind in (state.AcceleratorState, state.PartialState, state.GradientState):
                kind._shared_state.clear()  # noqa: SLF001 - accelerate has no other way
        for name in set(os.environ) - set(self._environ):
            del os.environ[name]
        for undo in self._undo:
            undo()
