"""The lease of a machine, as the machine tells it. What tells it may be anything that answers there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from gpurent.untrusted.data import Malformed
from gpurent.untrusted.text import clean

_LINE = re.compile(r"lease ([\w.?-]{1,100}) ([0-9]{1,12})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who uses a machine, and since when (Unix seconds); ``?`` for one whose text was lost."""

    tag: str
    since: float | None

    @classmethod
    def read(cls, line: str) -> Self:
        """One line such as ``lease gpurent-7f3a-1 1800000000``; 0 is a moment that nobody knows.

        Raises:
            Malformed: it is another line.
        """
        found = _LINE.fullmatch(line)
        if found is None:
            raise Malformed(f"{clean(line, 80)!r} is not a lease")
        return cls(found[1], float(found[2]) or None)
