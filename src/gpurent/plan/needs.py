"""What a job needs of a machine besides its GPU: main memory and disk. Pure."""

from __future__ import annotations

from gpurent.model import Workload
from gpurent_engine import families

PROCESS_MB = 3000
"""Python, torch and a CUDA context."""
WEIGHTS_PERCENT = 120
"""Of the base model's weights in half precision: they pass through main memory on their way to the GPU."""
PACKAGES_MB = 1500
"""The engine's packages, unpacked."""
SLACK_MB = 1000
MIB = 2**20


def ram_mb(workload: Workload, *, kept: bool = False) -> int:
    """MiB of main memory. Of a base model that comes from here the real size is known, else the family's.

    ``kept``: the engine keeps the base model for the next job, and trains on a copy.
    """
    family = families.get(workload.family)
    base = workload.base_bytes or family.memory.weights_mb * MIB
    return PROCESS_MB + base // MIB * (WEIGHTS_PERCENT + 100 * kept) // 100


def disk_mb(workload: Workload) -> int:
    """MiB of free disk: what is sent, downloaded, installed and made."""
    moved = workload.upload_bytes + workload.base_download_bytes + workload.checkpoint_bytes
    return moved // MIB + PACKAGES_MB + SLACK_MB
