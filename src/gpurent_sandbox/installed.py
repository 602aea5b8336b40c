"""The look-alikes that a sandbox has unless it is given others: the one list that names services."""

from __future__ import annotations

from gpurent_sandbox.lookalike import LookAlike
from gpurent_sandbox.runpod import RUNPOD
from gpurent_sandbox.vast import VAST

LOOK_ALIKES: tuple[LookAlike, ...] = (VAST, RUNPOD)
