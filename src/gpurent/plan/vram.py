"""How much memory a training needs."""

from __future__ import annotations

from gpurent.model import Workload

_BASE_MB = {"sd15": 3400, "sd2": 3700, "sdxl": 9000}
"""Frozen weights in half precision, CUDA context, caches."""
_IMAGE_MB = {"sd15": 2100, "sd2": 2300, "sdxl": 2600}
"""Activations of one image at the family's own size, without gradient checkpointing."""
_SIDE = {"sd15": 512, "sd2": 512, "sdxl": 1024}
_CHECKPOINTED = 0.3
_MB_PER_RANK = {"sd15": 10, "sd2": 12, "sdxl": 57}
"""LoRA weights, gradients and two moments in float32: 0.59 M (SD 1.5) and 3.56 M (SDXL) parameters a rank, 16 bytes each."""
MARGIN = 1.1


def need_mb(workload: Workload) -> int:
    """MiB of GPU memory, with a tenth to spare.

    The guide's rule of thumb (12 GB for SD 1.5, 16 GB for SDXL with checkpointing) lies a little above at batch 2.
    """
    family = workload.family if workload.family in _BASE_MB else "sd15"
    area = workload.width * workload.height / _SIDE[family] ** 2
    image = _IMAGE_MB[family] * area * (_CHECKPOINTED if workload.gradient_checkpointing else 1.0)
    total = _BASE_MB[family] + image * workload.batch_size + _MB_PER_RANK[family] * workload.network_dim
    return round(total * MARGIN)
