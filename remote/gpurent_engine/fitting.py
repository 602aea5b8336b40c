"""Steps that fit the device: where memory runs out, the same step is taken in smaller micro-batches.

The result stays what was configured. A batch of ``b`` pictures that is cut into pieces of ``b_i`` gives the mean loss
``Σ b_i / b · mean_i``; a stepper takes the mean over its micro-batches, so each piece's weights carry the rest.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from gpurent_engine.stepper import Batch, NoMemory, PassingOn, Stepper
from gpurent_engine.text import TextInput

SPARE_BYTES = 200 << 20
"""Left over by the largest step: libraries take memory of their own later, and allocations do not pack perfectly."""


class FittingStepper(PassingOn[Stepper]):
    """A stepper that never gives up while anything is left to try.

    Args:
        stepper: computes the steps.
        tell: told, for the user, what was changed.
        most: pictures in a micro-batch, 0 for any number.
        free: bytes that nothing on the device has taken, asked after a rehearsal; None where that cannot be known.
    """

    def __init__(
        self, stepper: Stepper, tell: Callable[[str], None], *, most: int = 0, free: Callable[[], int] | None = None
    ) -> None:
        self.inner = stepper
        self._tell = tell
        self._most = most
        self._free = free

    def step(self, batches: Sequence[Batch], rates: Sequence[float]) -> torch.Tensor:
        """See ``Stepper.step``.

        Raises:
            NoMemory: a single picture does not fit, whatever is done.
        """
        while True:
            pieces, owners = cut(batches, self._most)
            try:
                losses = self.inner.step(pieces, rates)
            except NoMemory as error:
                said = str(error)
            else:
                return losses if len(pieces) == len(batches) else gathered(losses, owners)
            del pieces
            self._give_way(max(len(batch.mean) for batch in batches), said)

    def rehearse(self, batches: Sequence[Batch]) -> None:
        """Find out how a step is taken on this device; see ``Stepper.rehearse``. Some memory is left over.

        Raises:
            NoMemory: a single picture does not fit, whatever is done.
        """
        while True:
            pieces, _ = cut(batches, self._most)
            try:
                self.inner.rehearse(pieces)
            except NoMemory as error:
                said = str(error)
            else:
                if self._free is None or self._free() >= SPARE_BYTES:
                    return
                said = "too little memory would be left over"
            del pieces
            self._give_way(max(len(batch.mean) for batch in batches), said)

    def _give_way(self, size: int, said: str) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        largest = min(size, self._most or size)
        if largest > 1:
            self._most = -(-largest // 2)
            self._tell(
                f"{size} pictures of this size do not fit into memory at once: {self._most} at a time are computed and "
                "gathered. The result is the same."
            )
            return
        done = self.inner.lighten()
        if not done:
            raise NoMemory(said)
        self._tell(
            f"One picture of this size does not fit into memory: {done}. That takes longer; the result is the same."
        )

    def examine(self, batches: Sequence[Batch]) -> torch.Tensor:
        """See ``Stepper.examine``.

        Raises:
            NoMemory: a single picture does not fit, whatever is done.
        """
        while True:
            pieces, owners = cut(batches, self._most)
            try:
                losses = self.inner.examine(pieces)
            except NoMemory as error:
                said = str(error)
            else:
                return losses if len(pieces) == len(batches) else gathered(losses, owners)
            del pieces
            self._give_way(max(len(batch.mean) for batch in batches), said)


def cut(batches: Sequence[Batch], most: int) -> tuple[list[Batch], list[int]]:
    """Micro-batches of ``most`` pictures at most, and for each the index of the batch that it comes from.

    The mean over all of them is the mean over ``batches``.
    """
    if not most or all(len(batch.mean) <= most for batch in batches):
        return list(batches), list(range(len(batches)))
    ranges = [list(_ranges(len(batch.mean), most)) for batch in batches]
    share = sum(map(len, ranges)) / len(batches)
    pieces, owners = [], []
    for index, (batch, parts) in enumerate(zip(batches, ranges, strict=True)):
        for start, end in parts:
            piece = rows(batch, start, end)
            pieces.append(replace(piece, weight=piece.weight * (share * (end - start) / len(batch.mean))))
            owners.append(index)
    return pieces, owners


def gathered(losses: torch.Tensor, owners: Sequence[int]) -> torch.Tensor:
    """Losses of pieces to those of the batches that they were cut from."""
    count = owners[-1] + 1
    at = torch.tensor(owners, device=losses.device)
    return losses.new_zeros(count).index_add_(0, at, losses * (count / len(owners)))


def _ranges(size: int, most: int) -> Iterator[tuple[int, int]]:
    """As even as possible: each other size would be another graph."""
    parts = -(-size // most)
    for i in range(parts):
        yield i * size // parts, (i + 1) * size // parts


def rows(batch: Batch, start: int, end: int) -> Batch:
    """Some pictures of a batch, as views."""

    def some(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value[start:end]
        if isinstance(value, tuple):
            return tuple(some(one) for one in value)
        if isinstance(value, TextInput):
            return TextInput(some(value.tokens), some(value.hidden), some(value.pooled), some(value.weights))
        return value

    return replace(batch, **{one.name: some(getattr(batch, one.name)) for one in fields(batch)})
