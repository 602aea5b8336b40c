"""What every kind of adapter offers to steppers and to the exporter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from gpurent_engine.networks.plan import Plan


@dataclass
class Mode:
    """Whether a step is being computed: dropouts rest outside of it, so that proofs and pictures are exact."""

    training: bool = False


@dataclass(frozen=True)
class Network:
    """Adapters put into the base by ``attach``.

    ``parameters`` maps each tensor's name in the LoRA file to its float32 master, in the order of ``plan``.
    """

    plan: Plan
    parameters: Mapping[str, torch.nn.Parameter]
    mode: Mode = field(default_factory=lambda: Mode())
    """Shared with every adapter that draws something."""

    def of_group(self, index: int) -> list[torch.nn.Parameter]:
        """Masters of the ``index``-th group of the plan."""
        keys = {layer.key for layer in self.plan.groups[index].layers}
        return [one for name, one in self.parameters.items() if name.partition(".")[0] in keys]
