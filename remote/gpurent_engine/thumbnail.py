"""A small picture inside the LoRA file, which model browsers show. Torch-free."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

from gpurent_engine.spec import SpecError, TrainSpec

EDGE = 256
"""Pixels along the longer edge."""
KEY = "metadata_thumbnail"


def embed(spec: TrainSpec, here: Path) -> TrainSpec:
    """Turn the path in ``metadata_thumbnail`` into a data URL; one that is a data URL already stays.

    Args:
        spec: as read.
        here: where a relative path starts.

    Raises:
        SpecError: the file is missing or is not a picture.
    """
    if not spec.metadata_thumbnail or spec.metadata_thumbnail.startswith("data:image/"):
        return spec
    from PIL import Image, ImageOps

    path = here / Path(spec.metadata_thumbnail).expanduser()
    if not path.is_file():  # a pipe would be waited for
        raise SpecError(KEY, f"{path} cannot be read as a picture (it is not a file).")
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SpecError(KEY, f"{path} cannot be read as a picture ({error}).") from error
    picture.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=85)
    return replace(spec, metadata_thumbnail="data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode())
