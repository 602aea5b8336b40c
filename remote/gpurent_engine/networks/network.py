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
class Share:
    """Masters with one learning rate: that of a group of the plan times ``factor``."""

    group: int
    factor: float
    parameters: list[torch.nn.Parameter]


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

    def shares(self) -> list[Share]:
        """Masters by learning rate: each group of the plan, its up matrices apart where LoRA+ gives them another."""
        found = []
        for index, group in enumerate(self.plan.groups):
            members = {id(one) for one in self.of_group(index)}
            names = [name for name, one in self.parameters.items() if id(one) in members]
            ups = [name for name in names if group.plus != 1 and ".lora_up." in name]
            for factor, chosen in ((1.0, [name for name in names if name not in set(ups)]), (group.plus, ups)):
                if chosen:
                    found.append(Share(index, factor, [self.parameters[name] for name in chosen]))
        return found
