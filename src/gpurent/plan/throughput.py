"""How long a training step takes, from steps that were measured and what a card can do beside the measured one.

    seconds a step = fixed + pictures × work ÷ reached × slowness

*Work* was counted, not guessed, for each family on its real architecture: see ``gpurent_engine.families``.

*Fixed* and *reached* describe the engine's step as one CUDA graph on an H200 (docs/benchmarks.md, 26 November 2026):
SD 1.5 at batch 1, 2, 4, 8, 16 took 13.5, 18.2, 27.6, 46.9, 89.1 ms, SDXL at 1, 2, 4, 8 took 55, 83, 148, 291 ms. Both
series are straight lines, which these two numbers give within a tenth.

*Slowness* of another card is part by arithmetic and part by memory bandwidth, in the shares that the profile of the
measured steps shows. No other card was measured with this engine; a prototype of it on an H100 is met within a tenth.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gpurent.model import Offer, Workload
from gpurent.plan.gpus import Gpu, find
from gpurent.plan.ranges import Range
from gpurent_engine import families

MEASURED = "H200"
FIXED_S = 0.0085
"""Seconds of a step of SD 1.5 that do not grow with the batch: small kernels, adapters, the optimiser."""
TEXT_ENCODER = 1.25
"""The fixed part where the text encoder is trained, too: 15.6 instead of 13.5 ms, SDXL 63.5 instead of 55.1 ms."""
ARITHMETIC = 0.75
"""Share of a step on the H200 in matrix products, convolutions and attention; the rest waits for memory."""
WITHOUT_COMPILER = 1.37
"""The default image has no C compiler, so Triton's kernels cannot run there: measured 1.32 to 1.43."""
WITHOUT_COMPILER_AT_MOST = 1.45
FIXED_SPREAD = Range(0.8, 1.0, 2.0)
SPREAD = {
    "measured": Range(0.9, 1.0, 1.2),
    "relative": Range(0.8, 1.0, 1.4),
    "known": Range(0.6, 1.0, 1.8),
}
"""By how much the estimate may be off: on the measured card, on its relatives, on any card of the table."""
RELATIVES = ("H100 SXM", "H100 PCIE", "H100 NVL")
SHARING = Range(1.0, 1.1, 1.5)
"""What summing the adapters' gradients over several GPUs adds to a step; not measured."""
LAUNCHING_S = Range(0.06, 0.19, 0.30)
"""Seconds in which a CPU launches the kernels of a plain step of SD 1.5: 0.17 to 0.22 on two servers; a desktop's core
is faster. The GPU works meanwhile, so the longer of the two counts most."""
PLAIN_SHARE = Range(0.10, 0.22, 0.40)
"""Of the usable peak, in a plain step that does not wait for the CPU."""
FLOAT32_SPEED = 0.4
"""Without mixed precision: between TF32's half and plain float32's fifth of the peak."""
FORWARD = 0.47
"""Share of a picture's work that is its prediction; the rest is what the gradients take. Counted, as in ``Work``."""
VAE_TFLOP = 1.117
"""To encode a picture of 512 × 512, counted likewise; in float32, which these cards compute about as fast by TF32."""
UNKNOWN_TFLOPS_PER_GB = Range(1.5, 2.5, 5.0)
"""For a GPU not in the table: cards with more memory are faster, roughly."""


def work(workload: Workload) -> float:
    """TFLOP for one picture: between counted sizes by a power of the pixel count, beyond them by the nearest power."""
    facts = families.get(workload.family).work
    counted = facts.tflop
    pixels = workload.width * workload.height
    upper = next((at for at in range(1, len(counted) - 1) if pixels <= counted[at][0] ** 2), len(counted) - 1)
    (small, less), (large, more) = counted[upper - 1], counted[upper]
    power = math.log(more / less) / math.log(large**2 / small**2)
    tflop = less * math.pow(pixels / small**2, power)
    return tflop * (facts.recompute if workload.gradient_checkpointing else 1.0)


def slowness(offer: Offer) -> Range:
    """How many times as long as an H200 one GPU of ``offer`` takes; a wide range where the card is not known."""
    reference, gpu = find(MEASURED), find(offer.gpu)
    assert reference is not None
    if gpu is None:
        tflops = UNKNOWN_TFLOPS_PER_GB.times(max(1.0, offer.vram_mb / 1024))
        whole, spread = _arithmetic(reference), SPREAD["known"]
        return Range(
            whole / tflops.high * spread.low, whole / tflops.mid * spread.mid, whole / tflops.low * spread.high
        )
    mid = ARITHMETIC * _arithmetic(reference) / _arithmetic(gpu) + (1 - ARITHMETIC) * reference.gbs / gpu.gbs
    kind = "measured" if gpu.name == MEASURED else "relative" if gpu.name in RELATIVES else "known"
    return SPREAD[kind].times(mid)


def _arithmetic(gpu: Gpu) -> float:
    """Between the peak on paper and what the memory can feed: measured cards lie between the two, too."""
    return math.sqrt(gpu.tflops * gpu.usable_tflops)


def extra_steps(workload: Workload) -> float:
    """What is computed besides training, in steps: held-out and sample pictures, pictures that are encoded again."""
    tflop = work(workload)
    pixels = workload.width * workload.height
    whole = workload.predictions * FORWARD + workload.encodings * VAE_TFLOP * pixels / 512**2 / tflop
    return whole / workload.batch_size


def compiled_step_seconds(workload: Workload, offer: Offer) -> Range:
    """Seconds of one batch on one GPU of ``offer``, in an image with a C compiler."""
    facts = families.get(workload.family).work
    fixed = FIXED_SPREAD.times(FIXED_S * facts.launches * (TEXT_ENCODER if workload.train_text_encoder else 1.0))
    computing = workload.batch_size * work(workload) / facts.reached
    return fixed + slowness(offer).times(computing if workload.half_precision else computing / FLOAT32_SPEED)


def step_seconds(workload: Workload, offer: Offer) -> Range:
    """Seconds of one batch on all GPUs of ``offer``: at best with a compiler, expected without."""
    used = min(offer.gpu_count, workload.batch_size)
    if used > 1:  # each computes its share of the batch, and the slowest counts
        part = replace(workload, batch_size=-(-workload.batch_size // used))
        step = step_seconds(part, replace(offer, gpu_count=1))
        return Range(step.low, step.mid * SHARING.mid, step.high * SHARING.high)
    if not workload.fast_step:
        return plain_step_seconds(workload, offer)
    step = compiled_step_seconds(workload, offer)
    return Range(step.low, step.mid * WITHOUT_COMPILER, step.high * WITHOUT_COMPILER_AT_MOST)


def plain_step_seconds(workload: Workload, offer: Offer) -> Range:
    """The same for the plain step (peft, autocast), which trains what the fast one cannot."""
    gpu = find(offer.gpu)
    peak = UNKNOWN_TFLOPS_PER_GB.times(max(1.0, offer.vram_mb / 1024))
    if gpu is not None:
        peak = Range(gpu.usable_tflops, gpu.usable_tflops, gpu.usable_tflops)
    launching = LAUNCHING_S.times(families.get(workload.family).work.launches)
    launching = launching.times(1.3 if workload.gradient_checkpointing else 1.0)  # the forward pass is launched twice
    tflop = workload.batch_size * work(workload) / (1.0 if workload.half_precision else FLOAT32_SPEED)
    return Range(
        math.hypot(launching.low, tflop / (peak.high * PLAIN_SHARE.high)),
        math.hypot(launching.mid, tflop / (peak.mid * PLAIN_SHARE.mid)),
        math.hypot(launching.high, tflop / (peak.low * PLAIN_SHARE.low)),
    )


def images_per_second(workload: Workload, offer: Offer) -> Range:
    """Pictures a second while training."""
    step = step_seconds(workload, offer)
    return Range(workload.batch_size / step.high, workload.batch_size / step.mid, workload.batch_size / step.low)
