"""Model families: each loads its parts and knows which of their layers carry a LoRA."""

from __future__ import annotations

import json
from pathlib import Path

from gpurent_engine.families.sd15 import ModelError, Parts, load
from gpurent_engine.spec import SpecError

__all__ = ["ModelError", "Parts", "family_of", "load"]

_NOT_YET = {
    "StableDiffusionXLPipeline": "SDXL",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "FluxPipeline": "Flux",
}


def family_of(base_model: str) -> str:
    """Name the family of a base model; a hub id or single file is taken for Stable Diffusion 1.5.

    Raises:
        ModelError: the folder's index cannot be read.
        SpecError: the model folder says that it belongs to a family this version does not train.
    """
    index = Path(base_model) / "model_index.json"
    if not index.is_file():
        return "sd15"
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name", "")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{index} is damaged: {error}") from error
    if kind in _NOT_YET:
        raise SpecError(
            "pretrained_model_name_or_path",
            f"is a {_NOT_YET[kind]} model; this version trains Stable Diffusion 1.x only.",
        )
    return "sd15"
