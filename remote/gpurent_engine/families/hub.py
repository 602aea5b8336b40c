"""Download a base model from the Hugging Face hub: what training needs, nothing else."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from gpurent_engine.families.parts import ModelError
from gpurent_engine.families.pins import revision

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
SMALL = (
    "model_index.json", "scheduler/*.json", "tokenizer/*", "tokenizer_2/*", "*/config.json",
    "*/*.safetensors.index.json",
)  # fmt: skip
"""No safety checker, no pickles, no other frameworks' weights."""


def download(repository: str, *, half: bool) -> Path:
    """Fetch a repository and return its folder; what is in the cache is not fetched again.

    Where ``pins`` knows a revision, that one is loaded, whatever the repository holds today.

    Args:
        repository: such as ``stabilityai/stable-diffusion-xl-base-1.0``.
        half: fetch half-precision weights where the repository has them: half the bytes.

    Raises:
        ModelError: it does not exist, is not public, or the hub cannot be reached.
        OSError: the disk is full.
    """
    import huggingface_hub

    library: Any = huggingface_hub
    try:
        patterns = _patterns(library, repository, half)
        return Path(library.snapshot_download(repository, revision=revision(repository), allow_patterns=patterns))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ModelError(f"{repository} cannot be loaded: {_first_line(error)}") from error
    except Exception as error:  # its HTTP library raises errors of its own, and has changed
        raise ModelError(f"{repository} cannot be loaded: {_first_line(error)}") from error


def _patterns(library: Any, repository: str, half: bool) -> list[str]:
    """File patterns; without a network all weights, of which the cache may hold either kind."""
    try:
        listed = library.list_repo_files(repository, revision=revision(repository))
    except Exception:  # noqa: BLE001 - offline or refused: whatever the cache holds; downloading says what is wrong
        return [*SMALL, *(f"{part}/*.safetensors" for part in PARTS)]
    patterns: list[str] = list(SMALL)
    for part in PARTS:
        inside = [name for name in listed if name.startswith(f"{part}/") and name.endswith(".safetensors")]
        fp16 = [name for name in inside if ".fp16" in name]
        plain = [name for name in inside if name.count(".") == 1]
        patterns += (fp16 or plain) if half and part != "vae" else (plain or fp16)
    return patterns


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
