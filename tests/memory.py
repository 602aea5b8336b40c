"""How much memory something may take."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

MIB = 1024 * 1024


@contextmanager
def at_most(mib: int) -> Iterator[None]:
    """Python's memory grows by no more than that meanwhile."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before <= mib * MIB, f"{(peak - before) / MIB:.0f} MiB"
    finally:
        tracemalloc.stop()
