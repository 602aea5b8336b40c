"""One training, from the order that a client wrote to an exit status. ``loop.py`` does the work."""

from __future__ import annotations

import errno
import json
import os
import platform
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpurent_engine import PROTOCOL, __version__, launch
from gpurent_engine.data import DataError
from gpurent_engine.events import EventWriter
from gpurent_engine.spec import SpecError, TrainSpec
from gpurent_engine.step.switches import PLAIN, Switches

if TYPE_CHECKING:
    from gpurent_engine.bases import Opener
    from gpurent_engine.setup import Order

DONE, FAILED, REFUSED, STOPPED = 0, 1, 2, 4
"""Exit statuses: REFUSED is for a configuration or a dataset, STOPPED for a training that ended on request."""
NEEDED = frozenset(("protocol", "spec", "base_model", "data_dir", "out_dir", "events"))
"""What an order has to have."""
MOST = 64 << 20
"""Bytes of an order: a thumbnail may be in it."""
OOM_REMEDY = (
    "Use a smaller train_batch_size, gradient_checkpointing = true, a lower resolution, or a GPU with more memory "
    "(--min-vram)."
)


def read_order(path: Path) -> dict[str, Any]:
    """Read a ``job.json``.

    Raises:
        SpecError: it is none, or lacks a key.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MOST:
        raise SpecError(path.name, f"is longer than {MOST >> 20} MiB.")
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpecError(path.name, f"is not valid JSON: {error}.") from error
    if not isinstance(job, dict):
        raise SpecError(path.name, "is not JSON object.")
    missing = NEEDED - set(job)
    if missing:
        raise SpecError(sorted(missing)[0], f"is missing in {path}.")
    return job


def train(job: dict[str, Any], events: Path, stop: threading.Event, opener: Opener | None = None) -> int:
    """Train one LoRA; return the exit status. Whatever happens is said in ``events``.

    Args:
        job: the order, with all keys of ``NEEDED``.
        events: file of events, appended to.
        stop: set to have it save and end.
        opener: how base models are read; None reads them from disk.
    """
    rank, size = ranks()
    with EventWriter(launch.beside(events, rank) if rank else events) as out:
        try:
            return _run(job, out, stop, opener)
        except Exception as error:  # noqa: BLE001
            # The last line of defence: whatever it was, the client has to hear of it, and the log has the rest.
            return _failed(error, out, launch.cause(events, size) if rank == 0 else None)


def train_pack(jobs: Sequence[dict[str, Any]], stop: threading.Event, opener: Opener | None = None) -> int:
    """Train several LoRAs at once; what happens to each is said in its ``events``.

    Returns:
        The worst of the exit statuses that they would have by themselves.
    """
    status = DONE
    with ExitStack() as stack:
        outs = [stack.enter_context(EventWriter(Path(job["events"]))) for job in jobs]
        tasks = []
        for job, out in zip(jobs, outs, strict=True):
            order = _begun_or_failed(job, out)
            if isinstance(order, int):
                status = _worse(status, order)
            else:
                tasks.append((order, out))
        if not tasks:
            return status
        from gpurent_engine import bases, together

        for (_, out), outcome in zip(tasks, together.train_together(tasks, stop, opener or bases.opened), strict=True):
            if isinstance(outcome, Exception):
                status = _worse(status, _failed(outcome, out))
            else:
                status = _worse(status, STOPPED if outcome.stopped else DONE)
    return status


def _begun_or_failed(job: dict[str, Any], out: EventWriter) -> Order | int:
    try:
        return _begun(job, out, 1)
    except Exception as error:  # noqa: BLE001 - as in ``train``
        return _failed(error, out)


def _worse(one: int, other: int) -> int:
    return max(one, other, key=(DONE, STOPPED, REFUSED, FAILED).index)


def _failed(error: Exception, out: EventWriter, cause: tuple[str, str, str] | None = None) -> int:
    """Say why a training ended; its exit status."""
    if isinstance(error, SpecError | DataError):
        code = "spec" if isinstance(error, SpecError) else "data"
        out.emit("error", code=code, message=str(error), remedy=getattr(error, "hint", ""))
        return REFUSED
    traceback.print_exception(error)
    code, message, remedy = cause or diagnose(error)
    out.emit("error", code=code, message=message, remedy=remedy)
    return FAILED


def ranks() -> tuple[int, int]:
    """Which of how many processes this is: alone, or of those that ``launch`` started."""
    rank, size = (int(os.environ.get(name) or least) for name, least in (("RANK", 0), ("WORLD_SIZE", 1)))
    return rank, size


def processes(job: Mapping[str, Any]) -> int:
    """How many processes train: as many as were asked for, if a step has a picture for each."""
    spec = job["spec"]
    wanted = int(job.get("processes") or 1)
    return max(1, min(wanted, int(spec.get("train_batch_size", 1)) * int(spec.get("gradient_accumulation_steps", 1))))


def _run(job: dict[str, Any], out: EventWriter, stop: threading.Event, opener: Opener | None) -> int:
    from gpurent_engine import bases, distributed, loop

    group = distributed.join()
    order = _begun(job, out, group.size)
    result = loop.train(order, out, stop, group, opener=opener or bases.opened)
    distributed.leave()  # not after a failure, when the others may never answer
    return STOPPED if result.stopped else DONE


def _begun(job: dict[str, Any], out: EventWriter, size: int) -> Order:
    """Say hello and read the order. ``size`` is the number of processes. Raises SpecError."""
    import torch

    from gpurent_engine import device, loop

    if job["protocol"] != PROTOCOL:
        raise SpecError("protocol", f"the client speaks {job['protocol']}, this engine {PROTOCOL}.")
    spec = TrainSpec.from_dict(job["spec"])
    step = str(job.get("step") or "")
    if step not in ("", PLAIN):
        try:
            Switches.parse(step)
        except ValueError as error:
            raise SpecError("step", f"{error}; or {PLAIN}.") from error
    if job.get("deterministic"):
        device.deterministic()
    choice = device.choose(spec.mixed_precision)
    out.emit(
        "hello", protocol=PROTOCOL, engine=__version__, python=platform.python_version(), torch=torch.__version__,
        device=str(choice.device), device_name=choice.name, pid=os.getpid(),
        processes=size,
    )  # fmt: skip
    wanted = int(job.get("processes") or 1)
    if size < wanted:
        pictures = spec.train_batch_size * spec.gradient_accumulation_steps
        said = f"Of {wanted} GPUs {size} are used: a step has {pictures} pictures. A larger train_batch_size"
        out.emit("warning", key="train_batch_size", message=f"{said} keeps more of them busy.")
    return loop.Order(
        spec=spec,
        base_model=job["base_model"],
        data_dir=Path(job["data_dir"]),
        out_dir=Path(job["out_dir"]),
        stop_file=Path(job["stop_file"]) if job.get("stop_file") else None,
        resume=bool(job.get("resume")),
        plan_file=Path(job["plan_file"]) if job.get("plan_file") else None,
        step=step,
        stop_at=job.get("stop_at"),
        cache_dir=Path(job["cache_dir"]) if job.get("cache_dir") else None,
    )


def diagnose(error: Exception) -> tuple[str, str, str]:
    """Code, message and remedy of what went wrong, for the ``error`` event."""
    if isinstance(error, ImportError) and "allocate memory" not in str(error) and "map segment" not in str(error):
        return "no_packages", str(error), "Choose an image with torch >= 2.6 for its GPU driver: [need] image."
    import torch

    from gpurent_engine import device
    from gpurent_engine.export import NotFinite
    from gpurent_engine.families.parts import ModelError
    from gpurent_engine.loop import NotANumber, NothingLearnt
    from gpurent_engine.states import StateMismatch

    if device.out_of_memory(error):
        where = "GPU" if isinstance(error, torch.OutOfMemoryError) or "CU" in str(error) else "machine"
        return "oom", f"The {where} ran out of memory.", OOM_REMEDY
    if isinstance(error, NotANumber | NotFinite):
        remedy = 'Lower the learning rates, unet_lr and text_encoder_lr; with fp16, try mixed_precision = "bf16".'
        return "nan", str(error), remedy
    if isinstance(error, NothingLearnt):
        return "nothing_learnt", str(error), "Look at learning rates, masks and transparent pictures."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk_full", "The host's disk is full.", "Ask for more with [need] disk_gb, or save less often."
    if isinstance(error, ModelError):
        return "model", str(error), "Check pretrained_model_name_or_path; a hub id must exist and be public."
    if isinstance(error, StateMismatch):
        return "spec", str(error), "Start without --resume, or in another output folder."
    return "internal", f"{type(error).__name__}: {error}", "The engine's log has the details."
