"""Take turns, take medians: what both sides suffer from a noisy machine cancels in the ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Compared:
    """Medians in seconds."""

    ours: float
    baseline: float

    @property
    def ratio(self) -> float:
        """Ours over the baseline: below 1 is faster."""
        return self.ours / self.baseline


def seconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def compare(ours: Callable[[], object], baseline: Callable[[], object], rounds: int) -> Compared:
    """Run both in turn ``rounds`` times."""
    pairs = [(seconds(ours), seconds(baseline)) for _ in range(rounds)]
    return Compared(statistics.median(mine for mine, _ in pairs), statistics.median(other for _, other in pairs))


def say(name: str, found: Compared, baseline: str) -> None:
    print(f"{name}: {found.ours:.3f} s; {baseline}: {found.baseline:.3f} s; ratio {found.ratio:.3g}", flush=True)
