"""Captions to what conditions the UNet: token ids in chunks of 75, hidden states, pooled text.

Chunks as in kohya-ss/sd-scripts ``library/strategy_base.py``, ``strategy_sd.py`` and ``strategy_sdxl.py``: a caption of
up to 75 × n tokens becomes n sequences of 77 (start, 75 tokens, end), each runs through the encoder by itself, and the
hidden states are joined to start, n × 75, end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpurent_engine import emphasis, store
from gpurent_engine.device import sent
from gpurent_engine.families.bpe import BODY
from gpurent_engine.families.parts import Encoder
from gpurent_engine.store import Store

MOST_KEPT = 2000
"""Captions of one training on disk: where tags are shuffled, each step has new ones, and they never come again."""


@dataclass(frozen=True)
class TextInput:
    """Text of one batch, one entry for each encoder: ``tokens`` if it is trained, else ``hidden`` as it was cached.

    ``tokens`` int64 ``[b, chunks, 77]``, ``hidden`` ``[b, 75 × chunks + 2, width]``, ``pooled`` ``[b, width]`` or None.
    """

    tokens: tuple[torch.Tensor | None, ...]
    hidden: tuple[torch.Tensor | None, ...]
    pooled: torch.Tensor | None = None
    weights: tuple[torch.Tensor | None, ...] = ()
    """How much each position of ``tokens`` counts, float32 ``[b, 75 × chunks + 2]``; empty where all count alike."""


def tokenise(encoder: Encoder, captions: Sequence[str], chunks: int = 1) -> torch.Tensor:
    """Token ids, int64 ``[n, chunks, 77]``; what does not fit is cut off."""
    return _rows(encoder, encoder.tokenizer.bodies(captions), chunks)


def _rows(encoder: Encoder, bodies: Sequence[Sequence[int]], chunks: int) -> torch.Tensor:
    tokenizer = encoder.tokenizer
    rows = []
    for body in bodies:
        row = []
        for at in range(0, BODY * chunks, BODY):
            piece = [tokenizer.start, *body[at : at + BODY], tokenizer.end]
            row.append(piece + [tokenizer.pad] * (BODY + 2 - len(piece)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.int64)


def weighted(
    encoder: Encoder, captions: Sequence[str], chunks: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Token ids as ``tokenise`` gives them, and weights ``[n, 75 × chunks + 2]`` of their hidden states.

    Pieces between marks are tokenised one by one. Start, end and padding count 1. kohya's trainer multiplies hidden
    states likewise, and does not bring them back to their old mean (``library/strategy_sd.py``).
    """
    bodies, rows = [], []
    for caption in captions:
        pieces = emphasis.parse(caption)
        ids = encoder.tokenizer.bodies([text for text, _ in pieces]) if pieces else []
        bodies.append([one for body in ids for one in body])
        rows.append([weight for body, (_, weight) in zip(ids, pieces, strict=True) for _ in body])
    length = BODY * chunks
    padded = [[1.0, *row[:length], *[1.0] * (length - len(row)), 1.0] for row in rows]
    return _rows(encoder, bodies, chunks), torch.tensor(padded, dtype=torch.float32)


def encode(
    encoder: Encoder, ids: torch.Tensor, clip_skip: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run one encoder over ``ids`` ``[n, chunks, 77]``.

    Args:
        encoder: its family decides on the layer, on the final norm and on pooling.
        ids: as ``tokenise`` gives them.
        clip_skip: take this hidden layer from the end instead; None leaves it to the family. SDXL always takes the
            same layers, as in kohya's trainer.

    Returns:
        Hidden states ``[n, 75 × chunks + 2, width]``; pooled text ``[n, width]`` of the first chunk, or None.
    """
    facts = encoder.facts
    count, chunks, length = ids.shape
    layer = clip_skip if clip_skip and facts.normed else facts.layer
    out: Any = encoder.model(ids.reshape(-1, length), output_hidden_states=not (facts.normed and layer == 1))
    if facts.normed:
        hidden = out.last_hidden_state if layer == 1 else encoder.inner.final_layer_norm(out.hidden_states[-layer])
    else:
        hidden = out.hidden_states[-layer]
    hidden = hidden.reshape(count, chunks, length, -1)
    joined = torch.cat([hidden[:, 0, :1], hidden[:, :, 1:-1].flatten(1, 2), hidden[:, -1, -1:]], dim=1)
    pooled = out.text_embeds.reshape(count, chunks, -1)[:, 0] if facts.pooled else None
    return joined, pooled


class Conditioner:
    """Turns captions into ``TextInput``; a frozen encoder sees each caption once, its output stays on the device."""

    def __init__(
        self, encoders: Sequence[Encoder], trained: Sequence[bool], *, chunks: int, clip_skip: int | None,
        device: torch.device, weighted: bool = False, kept: Store | None = None,
    ) -> None:  # fmt: skip
        self._store = kept or Store(None)
        self._put = 0
        self._digests: dict[int, str] = {}
        self._weighted = weighted
        self._encoders = list(encoders)
        self._trained = list(trained)
        self._chunks = chunks
        self._clip_skip = clip_skip
        self._device = device
        self._cache: list[dict[str, tuple[torch.Tensor, torch.Tensor | None]]] = [{} for _ in encoders]

    def __call__(self, captions: Sequence[str]) -> TextInput:
        """Text of a batch, on the device."""
        tokens: list[torch.Tensor | None] = []
        hidden: list[torch.Tensor | None] = []
        pooled: torch.Tensor | None = None
        weights: list[torch.Tensor | None] = []
        for index, (encoder, trained) in enumerate(zip(self._encoders, self._trained, strict=True)):
            if trained:
                ids, counts = self._ids(encoder, captions)
                tokens.append(ids)
                weights.append(counts)
                hidden.append(None)
                continue
            weights.append(None)
            known = self._known(index, captions)
            tokens.append(None)
            hidden.append(torch.stack([known[caption][0] for caption in captions]))
            if encoder.facts.pooled:
                pooled = torch.stack([one for caption in captions if (one := known[caption][1]) is not None])
        return TextInput(tuple(tokens), tuple(hidden), pooled, tuple(weights) if self._weighted else ())

    def _ids(self, encoder: Encoder, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self._weighted:
            return sent(tokenise(encoder, captions, self._chunks), self._device), None
        ids, counts = weighted(encoder, captions, self._chunks)
        return sent(ids, self._device), sent(counts, self._device)

    @torch.no_grad()
    def _known(
        self, index: int, captions: Sequence[str]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:  # fmt: skip
        encoder, known = self._encoders[index], self._cache[index]
        new = [caption for caption in dict.fromkeys(captions) if caption not in known]
        if self._store.on:
            new = [caption for caption in new if not self._recall(index, caption)]
        if new:
            ids, counts = self._ids(encoder, new)
            dtype = encoder.model.dtype
            # as inside a training step: norms and sums of a half-precision encoder in float32
            with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
                hidden, pooled = encode(encoder, ids, self._clip_skip)
            if counts is not None:
                hidden = hidden * counts[..., None].to(hidden.dtype)
            for row, caption in enumerate(new):
                known[caption] = (hidden[row], None if pooled is None else pooled[row])
                self._keep(index, caption)
        return known

    def _recall(self, index: int, caption: str) -> bool:
        """Whether an earlier training has encoded this caption."""
        found = self._store.get(self._name(index, caption))
        if found is None:
            return False
        pooled = found.get("pooled")
        hidden = sent(found["hidden"], self._device)
        self._cache[index][caption] = (hidden, None if pooled is None else sent(pooled, self._device))
        return True

    def _keep(self, index: int, caption: str) -> None:
        if not self._store.on or self._put >= MOST_KEPT:
            return
        self._put += 1
        hidden, pooled = self._cache[index][caption]
        self._store.put(
            self._name(index, caption), {"hidden": hidden} if pooled is None else {"hidden": hidden, "pooled": pooled}
        )

    def _name(self, index: int, caption: str) -> str:
        encoder = self._encoders[index]
        if index not in self._digests:
            self._digests[index] = store.weights([encoder.model])
        how = (encoder.facts.folder, str(encoder.model.dtype), self._device.type)
        return store.key("text", self._digests[index], how, self._clip_skip, self._chunks, self._weighted, caption)
