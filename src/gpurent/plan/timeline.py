"""Where the hours go: every stage of a session in seconds, for one offer."""

from __future__ import annotations

from dataclasses import dataclass

from gpurent.model import Offer, Workload
from gpurent.plan.ranges import Range
from gpurent.plan.throughput import images_per_second

BOOT = Range(30.0, 120.0, 480.0)
"""From create to SSH where the provider does not say: an image is pulled, or already there."""
ENVIRONMENT = Range(5.0, 60.0, 240.0)
"""The engine's packages: in the image, or installed."""
ENGINE_START = Range(10.0, 25.0, 60.0)
TEARDOWN = Range(5.0, 15.0, 60.0)
OUR_MBPS = 20.0
"""What a home line sends; downloads are limited by the host."""
HUB_SHARE = 0.4
"""Part of a host's listed bandwidth that a download from a model hub gets."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Seconds of each stage, in order."""

    boot: Range
    environment: Range
    base_model: Range
    upload: Range
    train: Range
    collect: Range
    destroy: Range

    @property
    def total(self) -> Range:
        """All stages. Upload runs beside environment and base model, so the longer side counts."""
        side = self.environment + self.base_model
        beside = Range(max(side.low, self.upload.low), max(side.mid, self.upload.mid), max(side.high, self.upload.high))
        return self.boot + beside + self.train + self.collect + self.destroy

    @property
    def before_training(self) -> Range:
        """Until the first optimiser step."""
        return self.boot + self.environment + self.base_model + self.upload


def predict(workload: Workload, offer: Offer) -> Timeline:
    """Predict every stage of ``workload`` on ``offer``."""
    rate = images_per_second(workload, offer)
    images = workload.steps * workload.batch_size
    train = Range(images / rate.high, images / rate.mid, images / rate.low) + ENGINE_START
    boot = Range.around(offer.boot_s, 0.5, 3.0) if offer.boot_s is not None else BOOT
    down = max(1.0, offer.down_mbps)
    up = max(1.0, min(offer.up_mbps, 200.0))
    return Timeline(
        boot=boot,
        environment=ENVIRONMENT,
        base_model=_transfer(workload.base_download_bytes, down * HUB_SHARE),
        upload=_transfer(workload.upload_bytes, min(down, OUR_MBPS)),
        train=train,
        collect=_transfer(workload.checkpoint_bytes, up),
        destroy=TEARDOWN,
    )


def _transfer(size: int, mbps: float) -> Range:
    return Range.around(size * 8 / 1e6 / mbps, 0.5, 2.5)
