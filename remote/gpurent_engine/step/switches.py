"""Which parts of the fast step are on. A switch changes how fast the step is, never what is learnt."""

from __future__ import annotations

from dataclasses import dataclass, replace

PLAIN = "plain"
"""The level that is not a part of the fast step: torch, peft, autocast."""
CHECKPOINTS = ("none", "feed-forward", "blocks")
"""From the most memory to the least."""
ATTENTION = ("auto", "flash", "cudnn", "efficient", "math")


@dataclass(frozen=True)
class Switches:
    """``kernels``: our Triton kernels instead of torch's operations. ``stacked``: adapters in the frozen weights'
    tables (``rows.py``). ``graph``: the whole step as one CUDA graph. ``attention``: torch's backend for it.
    ``checkpoint``: recompute activations in the backward pass: ``none``, ``feed-forward`` or ``blocks``."""

    kernels: bool = True
    stacked: bool = True
    graph: bool = True
    attention: str = "auto"
    checkpoint: str = "none"

    @classmethod
    def parse(cls, text: str) -> Switches:
        """``merged``, ``kernels`` or ``stacked``, then ``+graph``, ``+cudnn``, ``+blocks`` and so on.

        Raises:
            ValueError: a word is not known.
        """
        level, *options = text.split("+")
        found = _LEVELS.get(level)
        if found is None:
            raise ValueError(f"{level!r} is not a level: choose from {', '.join(_LEVELS)}")
        for option in options:
            if option == "graph":
                found = replace(found, graph=True)
            elif option in ATTENTION:
                found = replace(found, attention=option)
            elif option in CHECKPOINTS:
                found = replace(found, checkpoint=option)
            else:
                known = ("graph", *ATTENTION, *CHECKPOINTS)
                raise ValueError(f"{option!r} is not an option: choose from {', '.join(known)}")
        return found

    def __str__(self) -> str:
        """As ``parse`` reads it."""
        level = "stacked" if self.stacked else "kernels" if self.kernels else "merged"
        options = [
            "graph" if self.graph else "",
            self.attention if self.attention != "auto" else "",
            self.checkpoint if self.checkpoint != "none" else "",
        ]
        return "+".join([level, *filter(None, options)])


_LEVELS = {
    "merged": Switches(kernels=False, stacked=False, graph=False),
    "kernels": Switches(kernels=True, stacked=False, graph=False),
    "stacked": Switches(kernels=True, stacked=True, graph=False),
}
