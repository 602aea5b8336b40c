"""How much GPU memory a training needs, part by part. What differs by family stands in the family's record.

The sums follow what the engine's step reserved on an H200 (docs/benchmarks.md). What CUDA takes for itself is
estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpurent.model import Workload
from gpurent_engine import families

CONTEXT_MB = 600
"""CUDA context and libraries."""
WORKSPACE_MB = 800
"""Convolution workspaces and the allocator's slack."""
MARGIN_PERCENT = 10
PLAIN_ACTIVATIONS = 1.5
"""Activations of the plain step ÷ those of the fast one: 1.4 (SD 1.5) and 1.5 (SDXL), measured at batch 1 and 4."""


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
    """Estimate every part.

    Raises:
        UnknownFamily: no record describes the workload's family.
    """
    family = families.get(workload.family)
    facts = family.memory
    bytes_factor = 1 if workload.half_precision else 2
    area = workload.width * workload.height / family.side**2
    kept = facts.checkpointed if workload.gradient_checkpointing else 1.0
    kept *= 1.0 if workload.fast_step else PLAIN_ACTIVATIONS
    image = facts.image_mb * area * kept + (facts.text_mb if workload.train_text_encoder else 0)
    return Memory(
        fixed=CONTEXT_MB + WORKSPACE_MB,
        weights=facts.weights_mb * bytes_factor,
        activations=round(image * workload.batch_size * bytes_factor),
        lora=round(facts.rank_mb * workload.network_dim),
    )


def need_mb(workload: Workload) -> int:
    """MiB to ask of a card."""
    return memory(workload).need
