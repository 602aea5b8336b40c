"""Which parts of the fast step are on. A switch changes how fast the step is, never what is learnt."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
            elif option in ("feed-forward", "blocks"):
                found = replace(found, checkpoint=option)
            else:
                known = ("graph", *ATTENTION, "feed-forward", "blocks")
                raise ValueError(f"{option!r} is not an option: choose from {', '.join(known)}")
        return found


_LEVELS = {
    "merged": Switches(kernels=False, stacked=False, graph=False),
    "kernels": Switches(kernels=True, stacked=False, graph=False),
    "stacked": Switches(kernels=True, stacked=True, graph=False),
}
