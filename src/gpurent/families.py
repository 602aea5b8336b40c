"""How large the files of each model family are: for planning and for the check of a job."""

from __future__ import annotations

BASE_BYTES = {"sd15": 4_270_000_000, "sdxl": 6_940_000_000}
"""What a host pulls from the hub: SD 1.5 in float32 without the safety checker, SDXL in half precision."""
BYTES_PER_RANK = {"sd15": 1_180_000, "sdxl": 7_130_000}
"""Of a LoRA file in half precision, for each rank, text encoders included."""
SIDE = {"sd15": 512, "sdxl": 1024}
"""Pixels along an edge that the family was trained with."""
