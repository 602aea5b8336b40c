"""Write a LoRA the way kohya's trainer does: names from the plan, alpha for every layer, metadata and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from safetensors.torch import save

from gpurent_engine.metadata import RunFacts, kohya_metadata, modelspec
from gpurent_engine.spec import TrainSpec

_DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class NotFinite(Exception):
    """A weight is NaN or infinite; writing the file would ship a broken LoRA."""


def tensors(
    adapters: Mapping[str, torch.Tensor], alphas: Mapping[str, float], precision: str
) -> dict[str, torch.Tensor]:  # fmt: skip
    """What the file holds: the adapters' tensors and an ``alpha`` for each layer, on the CPU in the saving precision.

    Raises:
        NotFinite: naming the first bad tensor.
    """
    dtype = _DTYPES[precision]
    found: dict[str, torch.Tensor] = {}
    for name, weight in adapters.items():
        saved = weight.detach().to("cpu", dtype).contiguous()
        if not bool(torch.isfinite(saved).all()):
            raise NotFinite(f"{name.removesuffix('.weight')} is not finite in {precision}")
        found[name] = saved
    # Always alpha: without it ComfyUI takes a scale of 1, kohya's trainer alpha = rank.
    return found | {f"{key}.alpha": torch.tensor(alpha, dtype=dtype) for key, alpha in alphas.items()}


def serialise(
    found: dict[str, torch.Tensor], spec: TrainSpec, facts: RunFacts, *, step: int, epoch: int, finished_at: float
) -> bytes:
    """A complete safetensors file with kohya's ``ss_`` metadata, hashes and modelspec."""
    metadata = kohya_metadata(spec, facts, step=step, epoch=epoch, finished_at=finished_at)
    plain = save(found, metadata)
    metadata |= hashes(plain)
    metadata |= modelspec(spec, facts, finished_at, metadata["sshs_model_hash"])
    return save(found, metadata)


def hashes(plain: bytes) -> dict[str, str]:
    """The two hashes that A1111 and CivitAI show, over a file that carries ``ss_`` metadata only."""
    header = int.from_bytes(plain[:8], "little")
    window = plain[0x100000 : 0x100000 + 0x10000]
    return {
        "sshs_model_hash": hashlib.sha256(plain[8 + header :]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
    }
