"""A piece of work recorded once as a CUDA graph and replayed.

A training step launches thousands of small kernels; launched one by one from Python, the GPU waits for the CPU most of
the time. A replay launches them all at once. What a graph reads and writes must stay where it was when it was recorded.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

Tensors = Mapping[str, torch.Tensor]


class Recorder:
    """Records graphs that share one memory pool. They must not run at the same time.

    Everything runs on one side stream, graph or not: what the first run prepares there (handles, workspaces, choices
    of algorithms), the recording finds ready.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool: Any = None
        self.seconds = 0.0
        """Time spent on recording so far."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run on the side stream, in order with the current one."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            current.wait_stream(self.stream)

    def record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Record ``work``; nothing of it is executed."""
        begun = time.monotonic()
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()  # cached blocks are of no use to the graphs' own pool
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            work()
        self.pool = self.pool or graph.pool()
        self.seconds += time.monotonic() - begun
        return graph


class Static:
    """Inputs at fixed addresses."""

    def __init__(self, inputs: Tensors) -> None:
        self.tensors = {name: value.clone() for name, value in inputs.items()}

    def fill(self, inputs: Tensors) -> None:
        """Copy ``inputs`` in; they have the same names and shapes."""
        for name, value in inputs.items():
            self.tensors[name].copy_(value, non_blocking=True)


def signature(inputs: Tensors) -> tuple[Any, ...]:
    """What a graph depends on: names, shapes and formats."""
    return tuple((name, tuple(value.shape), value.dtype) for name, value in sorted(inputs.items()))
