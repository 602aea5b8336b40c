"""What of a job still fits into what is left. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from gpurent.money import Usd, per_hour
from gpurent.plan.pace import Pace
from gpurent.plan.timeline import Timeline

CAREFUL = 0.95
"""A part of the steps that fit by the estimate."""


def fitting_steps(job: Timeline, pace: Pace, steps: int, left_s: float) -> int:
    """How many of ``steps`` fit into ``left_s`` seconds, with everything around them."""
    needed_s = pace.forecast(job)
    rest_s = pace.forecast(replace(job, train_s=job.train_s.times(0)))
    training_s = needed_s - rest_s
    if training_s <= 0:
        return 0
    share = (left_s - rest_s) / training_s
    return max(0, min(steps, math.floor(steps * share * CAREFUL)))


def idle_until(now: float, idle_s: float, soft: float) -> float:
    """Unix seconds at which a machine without a job is terminated: never after the time that the budget pays for."""
    return max(now, min(now + idle_s, soft))


def idle_cost(hourly: Usd, idle_s: float) -> Usd:
    """What waiting to the limit costs once."""
    return per_hour(hourly, round(idle_s * 1000))
