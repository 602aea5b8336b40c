"""The base model between jobs: one process that trains several LoRAs on the same base reads it once.

What is kept is never trained on. Each job gets a copy of it, since a job changes its base: adapters are put in,
``base_weights`` and the proof add to its weights, the fast step lays them out again, checkpointing switches modes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpurent_engine.basefile import BaseHashes
from gpurent_engine.families import loading
from gpurent_engine.families.parts import Encoder, Parts


@dataclass(frozen=True)
class Base:
    """A base model, and the digests of its file for the metadata."""

    parts: Parts
    hashes: BaseHashes


Opener = Callable[[str, bool, str, torch.dtype], Base]
"""Reads a base model: ``base_model``, ``half``, ``vae`` and ``dtype`` as ``families.loading.load`` has them."""


def opened(base_model: str, half: bool, vae: str, dtype: torch.dtype) -> Base:
    """Read a base model from disk; raises as ``families.loading.load``."""
    hashes = BaseHashes(base_model)  # reads beside the loading
    return Base(loading.load(base_model, half=half, vae=vae, dtype=dtype), hashes)


class Kept:
    """An ``Opener`` that keeps the last base model in main memory and hands out copies of it.

    One that has changed on disk is read again.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._base: Base | None = None
        self.again = 0
        """How often a base was asked for that was there."""

    def __call__(self, base_model: str, half: bool, vae: str, dtype: torch.dtype) -> Base:
        """A base of one's own; raises as ``families.loading.load``."""
        key = (base_model, _stamp(base_model), half, vae, _stamp(vae) if vae else (), dtype)
        if self._base is None or key != self._key:
            self._key = self._base = None  # never two of them in memory
            self._base = opened(base_model, half, vae, dtype)
            self._key = key
        else:
            self.again += 1
        return Base(_copied(self._base.parts), self._base.hashes)


def _stamp(path: str) -> tuple[object, ...]:
    """What tells a file or folder from what was there before: sizes and times. A hub id has none: its revision is
    pinned."""
    root = Path(path)
    files = sorted(one for one in root.rglob("*") if one.is_file()) if root.is_dir() else [root]
    found: list[object] = []
    for file in files:
        try:
            facts = file.stat()
        except OSError:
            continue
        found.append((str(file), facts.st_size, facts.st_mtime_ns, facts.st_ino))
    return tuple(found)


def _copied(parts: Parts) -> Parts:
    """Fresh modules and weights; tokenizers only read, and are shared."""
    encoders = [Encoder(one.facts, _module(one.model), one.tokenizer) for one in parts.text_encoders]
    return replace(
        parts, unet=_module(parts.unet), text_encoders=encoders, vae=_module(parts.vae),
        alphas_cumprod=parts.alphas_cumprod.clone(),
    )  # fmt: skip


def _module(module: Any) -> Any:
    return copy.deepcopy(module)
