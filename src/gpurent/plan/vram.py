"""How much GPU memory a training needs, part by part.

The constants are reckoned, not yet measured with our engine. Activations of SD 1.5 follow one user's series on an RTX
4090 (7.3 GB at batch 1, 20.8 GB at batch 11; with checkpointing 13.9 GB at 14); those of SDXL were chosen so that
reported runs fit: batch 8 with checkpointing on 24 GB, batch 1 without it on an RTX 3090 Ti.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpurent.model import Workload

CONTEXT_MB = 1000
"""CUDA context and libraries."""
WORKSPACE_MB = 1300
"""Convolution workspaces and the allocator's slack."""
MARGIN_PERCENT = 10


@dataclass(frozen=True, slots=True)
class _Family:
    weights_mb: int
    """UNet and text encoders in half precision, the VAE in float32."""
    image_mb: int
    """Activations of one picture of ``side`` × ``side`` without gradient checkpointing."""
    side: int
    checkpointed: float
    """Share of the activations that gradient checkpointing leaves."""
    rank_mb: float
    """Weights, gradients, two moments in float32: 16 bytes for each of 0.59 M (SD 1.5) or 3.56 M (SDXL) parameters."""
    text_mb: int
    """Activations of the text encoder, if it is trained."""


_FAMILIES = {
    "sd15": _Family(2300, 1350, 512, 0.4, 9.4, 100),
    "sd2": _Family(2550, 1450, 512, 0.4, 10.0, 150),
    "sdxl": _Family(7100, 8000, 1024, 0.17, 57.0, 400),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB by what they are for."""

    fixed: int
    weights: int
    activations: int
    lora: int

    @property
    def need(self) -> int:
        """What to ask of a card: all parts and a tenth to spare."""
        total = self.fixed + self.weights + self.activations + self.lora
        return -(-total * (100 + MARGIN_PERCENT) // 100)

    def __str__(self) -> str:
        parts = {
            "CUDA": self.fixed, "base model": self.weights, "activations": self.activations,
            "LoRA and optimiser": self.lora,
        }  # fmt: skip
        listed = ", ".join(f"{name} {mib / 1024:.1f}" for name, mib in parts.items())
        return f"{self.need / 1024:.1f} GB of GPU memory: {listed}, and {MARGIN_PERCENT} % to spare"


def memory(workload: Workload) -> Memory:
    """Reckon every part. A family not in the table counts as SD 1.5."""
    family = _FAMILIES.get(workload.family, _FAMILIES["sd15"])
    bytes_factor = 1 if workload.half_precision else 2
    area = workload.width * workload.height / family.side**2
    kept = family.checkpointed if workload.gradient_checkpointing else 1.0
    image = family.image_mb * area * kept + (family.text_mb if workload.train_text_encoder else 0)
    return Memory(
        fixed=CONTEXT_MB + WORKSPACE_MB,
        weights=family.weights_mb * bytes_factor,
        activations=round(image * workload.batch_size * bytes_factor),
        lora=round(family.rank_mb * workload.network_dim),
    )


def need_mb(workload: Workload) -> int:
    """MiB to ask of a card."""
    return memory(workload).need
