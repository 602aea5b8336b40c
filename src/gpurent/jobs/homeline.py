"""What this computer's line has lately carried with rented machines, kept beside the ledger.

A machine that gets little from here is slow only if others got more. Play money and machines of one's own are left out:
they stand on this computer or beside it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gpurent.localfiles import read_text
from gpurent.model import Line
from gpurent.untrusted.data import Malformed, fitted, parse

FILE = "line.json"
KEPT = 3
"""Machines: one slow machine more does not make this line slow, and one fast place does not stay for ever."""
LATELY_S = 30 * 24 * 3600.0
MOST = 4096

Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Measured(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    at: Number
    up_mbps: Number
    down_mbps: Number


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    lines: list[_Measured] = []


def recall(home: Path, now: float) -> Line | None:
    """The best of the last machines; None where nothing was measured lately, or the file cannot be read."""
    lines = [one for one in _read(home) if one.at > now - LATELY_S]
    if not lines:
        return None
    return Line(max(one.up_mbps for one in lines), max(one.down_mbps for one in lines))


def remember(home: Path, now: float, line: Line) -> None:
    """Keep what one more machine showed. Raises OSError."""
    lines = [*_read(home), _Measured(at=now, up_mbps=line.up_mbps, down_mbps=line.down_mbps)][-KEPT:]
    draft = home / f"{FILE}.{os.getpid()}"
    draft.write_text(_Kept(lines=lines).model_dump_json(), encoding="utf-8")
    draft.replace(home / FILE)


def _read(home: Path) -> list[_Measured]:
    with suppress(OSError, UnicodeDecodeError, Malformed):
        return fitted(_Kept, parse(read_text(home / FILE, MOST), most=MOST)).lines
    return []
