"""What a session costs, all in: integers throughout, every part rounded up."""

from __future__ import annotations

import math

from gpurent.model import Amounts, Price, Workload
from gpurent.money import MONTH_S, Usd, per_hour

GB = 10**9
ENVIRONMENT_BYTES = 500 * 10**6
"""What installing diffusers, transformers and friends on an image with torch pulls at most."""


def cost(price: Price, disk_gb: int, seconds: float, bytes_in: int, *, bytes_out: int) -> Amounts:
    """Bill ``seconds`` of rental, ``disk_gb`` of disk as long, and the bytes that cross the host's network."""
    milliseconds = math.ceil(seconds * 1000)
    return Amounts(
        gpu=per_hour(price.gpu_hour, milliseconds),
        disk=(price.disk_gb_month * disk_gb).scaled(milliseconds, MONTH_S * 1000),
        traffic_in=price.in_gb.scaled(bytes_in, GB),
        traffic_out=price.out_gb.scaled(bytes_out, GB),
    )


def session_cost(price: Price, disk_gb: int, seconds: float, workload: Workload, *, state_bytes: int = 0) -> Amounts:
    """Bill a session of ``seconds`` that trains ``workload``. Everything collected counts once.

    Args:
        price, disk_gb, seconds, workload: as they say.
        state_bytes: of states that come home while it trains.
    """
    bytes_in = workload.upload_bytes + workload.base_download_bytes
    bytes_out = workload.checkpoint_bytes + workload.grid_bytes + state_bytes
    return cost(price, disk_gb, seconds, bytes_in, bytes_out=bytes_out)


def traffic(price: Price, workload: Workload) -> Usd:
    """What everything that crosses the network costs at most: a reserve.

    Files may have to be sent or fetched twice after a cut, and the host may have to install the engine's packages.
    """
    bytes_in = 2 * workload.upload_bytes + workload.base_download_bytes + ENVIRONMENT_BYTES
    bytes_out = 2 * (workload.checkpoint_bytes + workload.grid_bytes)
    return cost(price, 0, 0.0, bytes_in, bytes_out=bytes_out).total
