"""Images a second from first principles: work per image over what a GPU can do, times the share that trainers reach.

Work per image is counted, not guessed: TFLOP of forward and backward through the UNet with a frozen base and a rank-16
LoRA, measured with torch's FlopCounter on the real architectures; the text encoder and the cached VAE are below 1 %.
"""

from __future__ import annotations

from gpurent.model import Offer, Workload
from gpurent.plan.gpus import find
from gpurent.plan.ranges import Range

_TFLOP = {
    "sd15": {512: 1.747, 768: 4.960},
    "sdxl": {512: 3.205, 768: 7.540, 1024: 14.347},
}
RECOMPUTE = {"sd15": 1.371, "sdxl": 1.427}
"""Extra work of full gradient checkpointing."""

EFFICIENCY = Range(0.07, 0.15, 0.28)
"""Share of the dense peak: users report 4 to 23 % for such runs, good training code 28 %."""
SMALL_BATCH = {1: 0.6, 2: 0.8, 3: 0.9}
"""Below four images the GPU waits for kernel launches of hundreds of small matrices."""
TFLOPS_PER_GB = 2.5
"""Fallback for a GPU not in the table: cards with more memory are faster, roughly."""


def work(workload: Workload) -> float:
    """TFLOP per image, scaled from the nearest counted size by pixels (attention makes that a lower bound above it)."""
    counted = _TFLOP.get(workload.family, _TFLOP["sd15"])
    pixels = workload.width * workload.height
    side = min(counted, key=lambda one: abs(one * one - pixels))
    tflop = counted[side] * pixels / (side * side)
    return tflop * (RECOMPUTE.get(workload.family, 1.4) if workload.gradient_checkpointing else 1.0)


def images_per_second(workload: Workload, offer: Offer) -> Range:
    """Range of training throughput on one GPU of ``offer``."""
    gpu = find(offer.gpu)
    peak = gpu.tflops if gpu else offer.vram_mb / 1024 * TFLOPS_PER_GB
    batch = SMALL_BATCH.get(workload.batch_size, 1.0)
    per_second = peak * batch / work(workload)
    low = EFFICIENCY.low if gpu else EFFICIENCY.low / 2
    return Range(per_second * low, per_second * EFFICIENCY.mid, per_second * EFFICIENCY.high)
