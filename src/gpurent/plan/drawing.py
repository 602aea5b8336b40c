"""How long a grid takes on the machine that has trained: an estimate, since no grid was timed on a rented GPU yet."""

from __future__ import annotations

from dataclasses import replace

from gpurent.model import Offer, Workload
from gpurent.plan.ranges import Range
from gpurent.plan.throughput import FORWARD, LAUNCHING_S, slowness, work
from gpurent_engine import families

START_S = Range(8.0, 20.0, 60.0)
"""Imports, the base model, the adapter: as a training's start, without a first step."""
START_AGAIN_S = Range(1.0, 5.0, 60.0)
"""The same where the engine's process has them from the job before; the high end is of one that starts again."""
PLAIN = Range(1.0, 1.6, 4.0)
"""Time of a prediction by diffusers ÷ its share of a training step of the engine."""
LAUNCHED = 1 / 3
"""Kernels of a prediction ÷ those of a plain step; its text encoders and gradients are the rest."""
DECODING_TFLOP = 2.5
"""For the VAE to decode a picture of 512 × 512, in float32."""
NOTHING = Range(0.0, 0.0, 0.0)


def grid_seconds(workload: Workload, offer: Offer) -> Range:
    """Seconds from the LoRA's arrival at home to the picture of its grid on the machine; zero without a grid."""
    grid = workload.grid
    if grid is None:
        return NOTHING
    facts = families.get(workload.family).work
    one = work(replace(workload, width=grid.side, height=grid.side, gradient_checkpointing=False)) * FORWARD
    tflop = grid.predictions * one + grid.pictures * DECODING_TFLOP * grid.side**2 / 512**2
    computing = _product(slowness(offer).times(tflop / facts.reached), PLAIN)
    launching = LAUNCHING_S.times(facts.launches * LAUNCHED * grid.calls)
    return (START_AGAIN_S if workload.base_kept else START_S) + computing.beside(launching)


def _product(one: Range, other: Range) -> Range:
    return Range(one.low * other.low, one.mid * other.mid, one.high * other.high)
