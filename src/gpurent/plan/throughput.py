"""How long a training step takes, from first principles.

    seconds a step = overhead + pictures × work ÷ (usable peak × share)

*Work* was counted, not guessed, for each family on its real architecture: see ``gpurent_engine.families``.

*Overhead* is what a step costs however small it is: hundreds of kernels are launched, and a fast GPU waits for them.
One user's epochs on an RTX 4090 at batch 1, 2, 4, 8, 11 took 53, 30, 22, 19, 17 s. Overhead + pictures × work with an
overhead of three pictures' work gives 53, 33, 23, 18, 17. This is why an H100 does not pay at batch 2.

*Share* of the usable peak: runs reported for the SDXL LoRA lie between 0.10 and 0.36 (the fastest: RTX 4090, eight
pictures with checkpointing at 3 s a step). None was made with our engine yet: hence the range.
"""

from __future__ import annotations

import math

from gpurent.model import Offer, Workload
from gpurent.plan.gpus import find
from gpurent.plan.ranges import Range
from gpurent_engine import families

SHARE = Range(0.10, 0.22, 0.36)
OVERHEAD_S = Range(0.06, 0.14, 0.22)
"""Seconds per step for SD 1.5 with its 264 adapters."""
CHECKPOINTED_OVERHEAD = 1.3
"""Gradient checkpointing launches the forward pass twice."""
FLOAT32_SPEED = 0.4
"""Without mixed precision: between TF32's half and plain float32's fifth of the peak."""
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


def peak(offer: Offer) -> Range:
    """TFLOP/s that one GPU of ``offer`` can use; a wide range where the card is not known."""
    gpu = find(offer.gpu)
    if gpu:
        return Range(gpu.usable_tflops, gpu.usable_tflops, gpu.usable_tflops)
    return UNKNOWN_TFLOPS_PER_GB.times(max(1.0, offer.vram_mb / 1024))


def step_seconds(workload: Workload, offer: Offer) -> Range:
    """Seconds of one batch on one GPU of ``offer``."""
    overhead = OVERHEAD_S.times(families.get(workload.family).work.launches)
    overhead = overhead.times(CHECKPOINTED_OVERHEAD if workload.gradient_checkpointing else 1.0)
    tflop = workload.batch_size * work(workload)
    speed = peak(offer).times(1.0 if workload.half_precision else FLOAT32_SPEED)
    computing = Range(
        tflop / (speed.high * SHARE.high), tflop / (speed.mid * SHARE.mid), tflop / (speed.low * SHARE.low)
    )
    return overhead + computing


def images_per_second(workload: Workload, offer: Offer) -> Range:
    """Pictures a second while training."""
    step = step_seconds(workload, offer)
    return Range(workload.batch_size / step.high, workload.batch_size / step.mid, workload.batch_size / step.low)
