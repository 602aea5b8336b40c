"""Model families as records. Torch-free; ``loading`` reads a base model of any of them and is imported late."""

from __future__ import annotations

import difflib

from gpurent_engine.families.record import Family, TextEncoder, UnknownFamily
from gpurent_engine.families.sd2 import SD2
from gpurent_engine.families.sd15 import SD15
from gpurent_engine.families.sdxl import SDXL

__all__ = ["FAMILIES", "SD2", "SD15", "SDXL", "Family", "TextEncoder", "UnknownFamily", "get"]

FAMILIES: dict[str, Family] = {one.name: one for one in (SD15, SD2, SDXL)}


def get(name: str) -> Family:
    """The record called ``name``.

    Raises:
        UnknownFamily: there is none. It is never taken for another family: a quote with the wrong numbers costs money.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    close = difflib.get_close_matches(name, FAMILIES, n=1)
    nearest = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownFamily(f"the family is one of {', '.join(FAMILIES)}, not {name!r}.{nearest}")
