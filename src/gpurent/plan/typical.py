"""A job described by a picture count alone."""

from __future__ import annotations

from gpurent.model import Drawing, Workload
from gpurent.words import counted
from gpurent_engine import families, sheet

REPEATS, EPOCHS, BATCH, DIM, SAVE_EVERY = 10, 10, 2, 32, 2
"""A common configuration: ten repeats, ten epochs, batch 2, rank 32, a checkpoint every second epoch."""
IMAGE_BYTES = 1_500_000


def typical_workload(
    images: int, family: str = "sd15", *, repeats: int = REPEATS, epochs: int = EPOCHS, batch_size: int = BATCH,
    network_dim: int = DIM,
) -> Workload:  # fmt: skip
    """A LoRA of ``images`` pictures with everything else as most people set it.

    Raises:
        ValueError: no pictures, or a family without a record.
    """
    if images < 1:
        raise ValueError("a LoRA needs at least one picture")
    facts = families.get(family)
    saved = -(-epochs // SAVE_EVERY)
    return Workload(
        name=counted(images, "image"), family=family, images=images, steps=-(-images * repeats // batch_size) * epochs,
        epochs=epochs, batch_size=batch_size, width=facts.side, height=facts.side, network_dim=network_dim,
        train_text_encoder=True, gradient_checkpointing=family == "sdxl", checkpoints=saved,
        checkpoint_bytes=saved * network_dim * facts.bytes_per_rank, upload_bytes=images * IMAGE_BYTES,
        base_download_bytes=facts.download_bytes(half=True), grid=_grid(facts.side),
    )  # fmt: skip


def _grid(side: int) -> Drawing:
    """Of one trigger: at three places, with a negative prompt and without, base and three strengths; small pictures
    with two seeds."""
    rows, columns, steps = 12 if side <= 768 else 6, 4, 20
    width, height = sheet.size(rows, columns)
    calls = -(-rows // sheet.at_once(side)) * columns * steps
    return Drawing(2 * rows * columns * steps, rows * columns, side, calls, 3 * width * height)
