"""Timing of one row: build, warm up, measure."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import torch

from gpurent_engine import networks
from gpurent_engine.bench.base import Draws, Model, build
from gpurent_engine.bench.options import Row, rows
from gpurent_engine.diffusion import Diffusion, diffusion
from gpurent_engine.spec import TrainSpec
from gpurent_engine.step.core import Core, TrainedText
from gpurent_engine.step.fast import sites
from gpurent_engine.step.objective import Objective
from gpurent_engine.step.switches import PLAIN, Switches
from gpurent_engine.step.update import Hyper

PEAK_TFLOPS = {
    "H200": 989, "H100": 989, "A100": 312, "L40S": 362, "RTX 4090": 165, "RTX 5090": 210, "RTX 3090": 71, "A6000": 155,
}  # fmt: skip
"""Dense bf16 rates of vendors' data sheets, for the share of the peak that a row reaches."""
RANK_SHARE = 0.0012
"""What each rank adds to a family's work, counted with FlopCounterMode between ranks 16 and 32."""


def plain_step(row: Row, model: Model, process: Diffusion) -> Callable[[Draws], torch.Tensor]:
    """The reference stepper with peft; bf16 autocast on a GPU."""
    from accelerate import Accelerator

    from gpurent_engine.plain import PlainStepper

    cuda = model.device.type == "cuda"
    network = networks.attach(model.parts, model.plan, torch.Generator().manual_seed(0))
    groups = [{"params": network.of_group(i), "lr": group.rate} for i, group in enumerate(model.plan.groups)]
    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(model.dtype, "no")
    stepper = PlainStepper(
        # The stepper pairs hidden states with encoders; where the text is given, one stands in for them.
        model.parts if row.text else replace(model.parts, text_encoders=[None]),  # type: ignore[list-item]
        network,
        torch.optim.AdamW(groups, weight_decay=0.01),
        process,
        accelerator=Accelerator(mixed_precision=mixed, cpu=not cuda),
        spec=TrainSpec("bench"),
    )
    rates = [group.rate for group in model.plan.groups]
    return lambda draws: stepper.step([draws.batch()], rates)


def fast_step(row: Row, model: Model, process: Diffusion) -> tuple[Core, Callable[[Draws], torch.Tensor]]:
    """The fast step at the row's level."""
    texts = [
        TrainedText(
            encoder.inner,
            encoder.facts.folder,
            layer=encoder.facts.layer,
            normed=encoder.facts.normed,
            projection=encoder.model.text_projection if encoder.facts.pooled else None,
        )
        for encoder in model.parts.text_encoders
    ]
    core = Core(
        model.parts.unet,
        sites(model.plan),
        objective=Objective(process, model.parts.vae_scale),
        hyper=Hyper(),
        switches=Switches.parse(row.level),
        texts=texts,
        adapters=row.adapters,
        groups=len(model.plan.groups),
    )
    for i in range(row.adapters):
        core.bank.initialise(torch.Generator(model.device).manual_seed(i), i)
    rates = [[group.rate for group in model.plan.groups]] * row.adapters

    def step(draws: Draws) -> torch.Tensor:
        losses = core.micro(draws.inputs())
        core.update(rates)
        return losses

    return core, step


def measure(row: Row, device: torch.device, *, profile: int = 0) -> dict[str, Any]:
    """Build, warm up and time ``row``.

    Returns:
        The row and: ``ms`` a step (median), ``img_s``, ``mfu`` in percent, ``gb`` of device memory at the peak,
        ``build_s``, ``first_s`` the first step, ``ready_s`` until the steady state, ``record_s`` of that for graphs,
        ``loss``; and with ``profile``, that many lines of the profiler.
    """
    cuda = device.type == "cuda"
    dtype = torch.float32
    if cuda:
        dtype = torch.float16 if row.level.endswith("+fp16") else torch.bfloat16
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    row = replace(row, level=row.level.removesuffix("+fp16"))
    model = build(row, device, dtype)
    process = diffusion(model.parts.alphas_cumprod, "epsilon", device)
    core: Core | None = None
    if row.level == PLAIN:
        step = plain_step(row, model, process)
    else:
        core, step = fast_step(row, model, process)
    draws = Draws(row, model)
    _wait(device)
    built = time.perf_counter()
    step(draws)
    _wait(device)
    first = time.perf_counter()
    for _ in range(2 + 2 * len(draws.shapes)):
        step(draws)
    _wait(device)
    ready = time.perf_counter()
    times, loss = _timed(lambda: step(draws), row.steps, cuda)
    ms = statistics.median(times)
    images = row.batch * row.adapters / ms * 1e3
    found = {
        **asdict(row),
        "dtype": str(dtype).removeprefix("torch."),
        "ms": ms,
        "img_s": images,
        "build_s": built - begun,
        "first_s": first - built,
        "ready_s": ready - first,
        "loss": float(loss.float().mean()),
    }
    if cuda:
        found["gb"] = torch.cuda.max_memory_allocated() / 2**30
        found["reserved_gb"] = torch.cuda.memory_reserved() / 2**30
        found |= _share_of_peak(row, model, images)
    if core is not None and core.recorder is not None:
        found["record_s"] = core.recorder.seconds
    if profile and cuda:
        found["profile"] = _profile(lambda: step(draws), profile)
    return found


def _share_of_peak(row: Row, model: Model, images: float) -> dict[str, float]:
    family, name = model.parts.family, torch.cuda.get_device_name()
    peak = next((rate for key, rate in PEAK_TFLOPS.items() if key in name), None)
    work = dict(family.work.tflop).get(row.side or family.side)
    if peak is None or work is None or row.tiny or row.sides:
        return {}
    return {"mfu": images * work * (1 + RANK_SHARE * (row.rank - 16)) / peak * 100}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _timed(step: Callable[[], torch.Tensor], steps: int, cuda: bool) -> tuple[list[float], torch.Tensor]:
    """Milliseconds of each step, between events on a GPU."""
    loss = torch.zeros(())
    if not cuda:
        times = []
        for _ in range(steps):
            begun = time.perf_counter()
            loss = step()
            times.append((time.perf_counter() - begun) * 1e3)
        return times, loss
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    events[0].record()
    for event in events[1:]:
        loss = step()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairwise(events)], loss


def _profile(step: Callable[[], torch.Tensor], lines: int) -> list[str]:
    """The longest kernels of three steps: share, calls a step, milliseconds a step, name."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(3):
            step()
        torch.cuda.synchronize()
    events: list[Any] = sorted(found.key_averages(), key=lambda one: -one.self_device_time_total)
    total = sum(one.self_device_time_total for one in events)
    head = f"{total / 3e3:.2f} ms of kernels a step, {sum(one.count for one in events) // 3} launches"
    shares = [
        (one.self_device_time_total / total, one.count // 3, one.self_device_time_total / 3e3, one.key[:110])
        for one in events[:lines]
    ]
    return [head, *(f"{share:6.1%} {calls:5d}x {ms:8.3f} ms  {name}" for share, calls, ms, name in shares)]


def release() -> None:
    """Give the device's memory back between rows."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def line(found: dict[str, Any]) -> str:
    """JSON with four significant digits."""
    return json.dumps(
        {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found.items()}
    )


def run(options: argparse.Namespace) -> int:
    """Measure and print; a row that does not fit says so and the next one runs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU", "torch": torch.__version__}
    todo = list(rows(options))
    try:
        for row in todo:
            if row.level.removesuffix("+fp16") != PLAIN:
                Switches.parse(row.level.removesuffix("+fp16"))
    except ValueError as error:
        print(f"gpurent_engine bench: --levels: {error}; or {PLAIN}, the loop without the fast step", file=sys.stderr)
        return 2
    status = 0
    for row in todo:
        found = facts | attempt(row, device, profile=options.profile)
        status = max(status, int("error" in found))
        print(line(found), flush=True)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(line(found) + "\n")
    return status


def attempt(row: Row, device: torch.device, *, profile: int = 0) -> dict[str, Any]:
    """``measure``, or the row with ``error`` where it does not fit into memory; memory is free again afterwards."""
    try:
        return measure(row, device, profile=profile)
    except torch.OutOfMemoryError:
        return {**asdict(row), "error": "out of memory"}
    finally:
        release()
