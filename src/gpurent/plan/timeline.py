"""Where the hours go: every stage of a session in seconds, for one offer."""

from __future__ import annotations

from dataclasses import dataclass

from gpurent.model import Offer, Workload
from gpurent.plan.drawing import NOTHING, grid_seconds
from gpurent.plan.ranges import Range
from gpurent.plan.throughput import extra_steps, step_seconds

BOOT_S = Range(30.0, 120.0, 480.0)
"""From create to SSH where the provider does not say: the image is there already, or has to be pulled."""
ENVIRONMENT_S = Range(5.0, 60.0, 240.0)
"""The engine's packages: in the image, or installed."""
ENGINE_START_S = Range(12.0, 32.0, 90.0)
"""Imports, loading the base model, the first step of each bucket: 21 and 38 s on an H200, 28 s on an H100, with 24 and
50 pictures."""
ENGINE_AGAIN_S = Range(3.0, 10.0, 60.0)
"""The same where the engine's process has its imports and the base model from the job before: a copy of the base and
the first step of each bucket. The high end is of a process that has to be started again."""
CACHE_S = Range(0.02, 0.08, 0.4)
"""Encoding one picture of 512 × 512 once: 0.076 s on an H100, decoding included."""
DESTROY_S = Range(5.0, 15.0, 300.0)
"""The high end is a reserve: it pays for a provider that is slow or deaf when the machine is to be destroyed."""
HOME_MBPS = 20.0
"""What a home line sends."""
HOST_MBPS_AT_MOST = 200.0
"""What one SFTP stream brings home, however fast the host's line."""
HUB_SHARE = 0.4
"""Part of a host's listed bandwidth that a download from a model hub gets."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Seconds of each stage, in order."""

    boot_s: Range
    environment_s: Range
    base_model_s: Range
    upload_s: Range
    train_s: Range
    collect_s: Range
    destroy_s: Range
    draw_s: Range = NOTHING
    """The grid of what was trained, once that is at home."""

    @property
    def before_training_s(self) -> Range:
        """From create to the engine's start. The upload runs beside environment and base model."""
        return self.boot_s + (self.environment_s + self.base_model_s).beside(self.upload_s)

    @property
    def total_s(self) -> Range:
        """From create to gone: what is billed."""
        return self.before_training_s + self.train_s + self.collect_s + self.draw_s + self.destroy_s


def predict(workload: Workload, offer: Offer, *, home_mbps: float = HOME_MBPS) -> Timeline:
    """Predict every stage of ``workload`` on ``offer``; ``home_mbps`` is what this computer's line sends."""
    down = max(1.0, offer.down_mbps)
    up = max(1.0, min(offer.up_mbps, HOST_MBPS_AT_MOST))
    return Timeline(
        boot_s=BOOT_S if offer.boot_s is None else Range.around(offer.boot_s, 0.5, 3.0),
        environment_s=ENVIRONMENT_S,
        base_model_s=_transfer(workload.base_download_bytes, down * HUB_SHARE),
        upload_s=_transfer(workload.upload_bytes, min(down, home_mbps)),
        train_s=step_seconds(workload, offer).times(workload.steps + extra_steps(workload)) + engine_start_s(workload),
        collect_s=_transfer(workload.checkpoint_bytes, up),
        destroy_s=DESTROY_S,
        draw_s=grid_seconds(workload, offer) + _transfer(workload.grid_bytes, up),
    )


def engine_start_s(workload: Workload) -> Range:
    """From the engine's start to its first step."""
    start = ENGINE_AGAIN_S if workload.base_kept else ENGINE_START_S
    return start + CACHE_S.times(workload.images * workload.width * workload.height / 512**2)


def _transfer(size: int, mbps: float) -> Range:
    return Range.around(size * 8 / 1e6 / mbps, 0.5, 2.5)
