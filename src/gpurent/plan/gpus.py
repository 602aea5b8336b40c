"""What rentable GPUs can do: memory, dense half-precision peak, memory bandwidth."""

from __future__ import annotations

import re
from dataclasses import dataclass

LISTED = "peak-FLOP/s tables of karpathy/nanochat, pytorch/torchtitan, Lightning-AI"
SHEET = "NVIDIA data sheet or architecture paper, from memory"
FLOPS_PER_BYTE = 164
"""The RTX 4090's own ratio of peak to bandwidth. LoRA training is full of small, memory-bound kernels: cards with far
more arithmetic per byte do not get it to work. An RTX 6000 Ada has 2.2 times the 4090's peak on paper and trains at
0.85 to 0.88 times its speed (Lambda's PyTorch benchmarks)."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model. ``tflops`` is the dense bf16/fp16 tensor peak with float32 accumulation, ``gbs`` is GB/s."""

    name: str
    vram_gb: int
    tflops: float
    gbs: int
    source: str
    aliases: tuple[str, ...] = ()

    @property
    def usable_tflops(self) -> float:
        """Peak, capped by what its memory can feed."""
        return min(self.tflops, self.gbs * FLOPS_PER_BYTE / 1000)


TABLE: tuple[Gpu, ...] = (
    Gpu("Tesla T4", 16, 65.0, 320, LISTED),
    Gpu("Tesla V100", 16, 125.0, 900, LISTED, aliases=("V100 PCIE", "V100 SXM2", "V100 FHHL")),
    Gpu("RTX 2080 Ti", 11, 53.8, 616, SHEET),
    Gpu("RTX 3060", 12, 25.6, 360, SHEET),
    Gpu("RTX 3060 Ti", 8, 32.4, 448, SHEET),
    Gpu("RTX 3070", 8, 40.6, 448, SHEET),
    Gpu("RTX 3080", 10, 59.5, 760, SHEET),
    Gpu("RTX 3080 Ti", 12, 68.2, 912, SHEET),
    Gpu("RTX 3090", 24, 71.0, 936, LISTED),
    Gpu("RTX 3090 Ti", 24, 80.0, 1008, SHEET),
    Gpu("RTX 4060 Ti", 16, 44.1, 288, SHEET),
    Gpu("RTX 4070", 12, 58.3, 504, SHEET),
    Gpu("RTX 4070 Ti", 12, 80.2, 504, SHEET),
    Gpu("RTX 4070S Ti", 16, 88.2, 672, SHEET, aliases=("RTX 4070 Ti SUPER",)),
    Gpu("RTX 4080", 16, 97.5, 717, SHEET),
    Gpu("RTX 4080S", 16, 104.4, 736, SHEET, aliases=("RTX 4080 SUPER",)),
    Gpu("RTX 4090", 24, 165.2, 1008, LISTED),
    Gpu("RTX 5070 Ti", 16, 87.9, 896, SHEET),
    Gpu("RTX 5080", 16, 112.6, 960, SHEET),
    Gpu("RTX 5090", 32, 209.5, 1792, LISTED),
    Gpu("RTX PRO 6000", 96, 503.8, 1792, SHEET, aliases=(
        "RTX PRO 6000 S", "RTX PRO 6000 WS", "RTX PRO 6000 Blackwell Server Edition",
        "RTX PRO 6000 Blackwell Workstation Edition",
    )),
    Gpu("RTX A4000", 16, 76.7, 448, SHEET),
    Gpu("RTX A5000", 24, 111.1, 768, SHEET),
    Gpu("RTX A6000", 48, 154.8, 768, LISTED),
    Gpu("RTX 6000Ada", 48, 364.2, 960, SHEET),
    Gpu("A10", 24, 125.0, 600, SHEET),
    Gpu("A40", 48, 149.7, 696, LISTED),
    Gpu("L4", 24, 121.0, 300, LISTED),
    Gpu("L40", 48, 181.0, 864, LISTED),
    Gpu("L40S", 48, 362.0, 864, LISTED),
    Gpu("A100", 40, 312.0, 1555, LISTED, aliases=("A100 PCIE", "A100 SXM4", "A100 SXM")),
    Gpu("H100 PCIE", 80, 756.0, 2000, LISTED),
    Gpu("H100 SXM", 80, 989.0, 3350, LISTED, aliases=("H100", "H100 HBM3", "H100 SXM5")),
    Gpu("H100 NVL", 94, 835.0, 3900, SHEET),
    Gpu("H200", 141, 989.0, 4800, LISTED, aliases=("H200 NVL", "H200 SXM")),
    Gpu("B200", 180, 2250.0, 8000, LISTED),
)  # fmt: skip

_MEMORY = re.compile(r"(?<![a-z0-9])\d+ ?gb(?![a-z0-9])")
_BRANDS = re.compile(r"nvidia|geforce|tesla|quadro|generation|rtx")


def find(name: str) -> Gpu | None:
    """The table's row for a provider's or user's spelling (``"NVIDIA A100-SXM4-80GB"``, ``"rtx_4090"``, ``"4090"``).

    None for what is not in the table: a near name may be quite another card (``RTX 4090D``, ``A10G``).
    """
    return _BY_NAME.get(_core(name))


def _core(name: str) -> str:
    bare = _BRANDS.sub("", _MEMORY.sub("", name.lower()))
    return "".join(char for char in bare if char.isalnum())


_BY_NAME = {_core(spelling): gpu for gpu in TABLE for spelling in (gpu.name, *gpu.aliases)}

Capability = tuple[int, int]
"""CUDA compute capability, major and minor."""

_CAPABILITIES: tuple[tuple[str, Capability], ...] = (
    (r"k80", (3, 7)), (r"m40|m60", (5, 2)),
    (r"p100", (6, 0)), (r"p4|p40|gtx10\d0.*|titanxp?|p[2456]000", (6, 1)),
    (r"v100.*|titanv", (7, 0)), (r"t4|20[678]0.*|gtx16\d0.*|titan|q[4568]000|cmp50hx", (7, 5)),
    (r"a100.*|a800.*|a30|cmp170hx", (8, 0)), (r"30\d0.*|a10g?|a16|a2|a40|a2000|a[456][05]00", (8, 6)),
    (r"40\d0.*|l4|l40s?|\d{4}ada|\d{4}sffada", (8, 9)),
    (r"h100.*|h200.*|h800.*|h20|gh200.*", (9, 0)), (r"b200.*|gb200.*", (10, 0)), (r"b300.*|gb300.*", (10, 3)),
    (r"50\d0.*|pro\d000.*", (12, 0)),
)  # fmt: skip
"""By architecture: Kepler, Maxwell, Pascal, Volta, Turing, Ampere, Ada, Hopper, Blackwell (NVIDIA's list of CUDA GPUs).
Services that do not tell a card's capability are judged by its name."""


def capability(name: str) -> Capability | None:
    """Compute capability of a card by its name, in any spelling; None for one that nobody knows."""
    core = _core(name)
    return next((found for pattern, found in _CAPABILITIES if re.fullmatch(pattern, core)), None)
