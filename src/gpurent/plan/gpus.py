"""What rentable GPUs can do. Dense bf16/fp16 tensor peaks with fp32 accumulation, from NVIDIA's architecture papers
and data sheets; consumer Ampere and Ada figures are those with fp32 accumulation (half of the fp16 headline)."""

from __future__ import annotations

from dataclasses import dataclass

from gpurent.model import squash


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model: memory in GB, dense half-precision TFLOP/s."""

    name: str
    vram_gb: int
    tflops: float


TABLE: tuple[Gpu, ...] = (
    Gpu("RTX 2080 Ti", 11, 53.8), Gpu("RTX 3060", 12, 25.6), Gpu("RTX 3060 Ti", 8, 32.4),
    Gpu("RTX 3070", 8, 40.6), Gpu("RTX 3080", 10, 59.5), Gpu("RTX 3080 Ti", 12, 68.2),
    Gpu("RTX 3090", 24, 71.2), Gpu("RTX 3090 Ti", 24, 80.0), Gpu("RTX 4060 Ti", 16, 44.2),
    Gpu("RTX 4070", 12, 58.3), Gpu("RTX 4070 Ti", 12, 80.2), Gpu("RTX 4070S Ti", 16, 88.2),
    Gpu("RTX 4080", 16, 97.5), Gpu("RTX 4080S", 16, 104.4), Gpu("RTX 4090", 24, 165.2),
    Gpu("RTX 5070 Ti", 16, 87.9), Gpu("RTX 5080", 16, 112.6), Gpu("RTX 5090", 32, 209.5),
    Gpu("RTX A4000", 16, 76.7), Gpu("RTX A5000", 24, 111.1), Gpu("RTX A6000", 48, 154.8),
    Gpu("RTX 6000Ada", 48, 364.2), Gpu("Tesla T4", 16, 65.1), Gpu("Tesla V100", 16, 125.0), Gpu("A10", 24, 125.0),
    Gpu("L4", 24, 121.0), Gpu("A40", 48, 149.7), Gpu("L40", 48, 181.0), Gpu("L40S", 48, 362.0),
    Gpu("A100 PCIE", 40, 312.0), Gpu("A100 SXM4", 80, 312.0), Gpu("H100 PCIE", 80, 756.0), Gpu("H100 SXM", 80, 989.0),
    Gpu("H200", 141, 989.0), Gpu("B200", 180, 2250.0),
)  # fmt: skip


def find(name: str) -> Gpu | None:
    """The table's row for a provider's spelling: the longest name contained in it, or containing it."""
    wanted = squash(name).removeprefix("nvidia").removeprefix("geforce")
    inside = [gpu for gpu in TABLE if squash(gpu.name) in wanted]
    if inside:
        return max(inside, key=lambda gpu: len(gpu.name))
    around = [gpu for gpu in TABLE if wanted and wanted in squash(gpu.name)]
    return min(around, key=lambda gpu: len(gpu.name)) if around else None
