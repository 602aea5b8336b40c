"""What a grid shows: prompts with the trigger at start, middle and end, seeds, strengths. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpurent.dataset import wording
from gpurent.errors import UsageError
from gpurent.expected import MIB
from gpurent.model import Drawing
from gpurent_engine import networkargs, sheet
from gpurent_engine.data import Dataset
from gpurent_engine.families import SDXL
from gpurent_engine.families.record import Family
from gpurent_engine.spec import TrainSpec

NEGATIVE = "blurry, deformed, low quality, watermark, text"
SCENES = ("a portrait", "in the city at night")
"""What stands around the trigger where no prompt is given."""
STRENGTHS, SEEDS, STEPS = (0.5, 0.8, 1.0), (1, 2), 20
"""Of the grid at the end of a training."""
MOST_TRIGGERS, MOST_CAPTIONS = 3, 3
LARGE = 768
"""Pixels a side from which on one seed is drawn: a picture of SDXL takes eight times as long as one of SD 1.5."""
STRIDE = 64
"""Pixels by which every base can draw."""
LONGEST = 200
"""Characters of a caption that is drawn."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the picture."""

    text: str
    seed: int
    negative: str

    @property
    def label(self) -> str:
        """What stands beside it."""
        return f"{self.text} · seed {self.seed}{' · negative' if self.negative else ''}"


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid at the end of a training."""

    rows: tuple[Row, ...]
    side: int
    """Pixels of each picture."""
    strengths: tuple[float, ...] = STRENGTHS
    steps: int = STEPS

    @property
    def pictures(self) -> int:
        """All of them, those of the base alone included."""
        return len(self.rows) * (1 + len(self.strengths))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet in pixels."""
        return sheet.size(len(self.rows), 1 + len(self.strengths))

    @property
    def most_bytes(self) -> int:
        """Largest size of the picture: without any compression, and a little around it."""
        width, height = self.size
        return 3 * width * height + MIB

    @property
    def drawing(self) -> Drawing:
        """What drawing it takes."""
        calls = math.ceil(len(self.rows) / sheet.at_once(self.side)) * (1 + len(self.strengths)) * self.steps
        # with guidance and without, at each step
        return Drawing(2 * self.pictures * self.steps, self.pictures, self.side, calls, self.most_bytes)


def picture_of(lora: str) -> str:
    """Name of the picture that belongs to a LoRA file."""
    return f"{lora.removesuffix('.safetensors')}-grid.png"


def planned(dataset: Dataset, spec: TrainSpec, family: Family) -> Grid | None:
    """The grid at the end of a training; None for what diffusers does not load, and where a LoRA alone does not show
    what was trained.

    The trigger is what the captions have in common. Where they have nothing, some of them are drawn as they are.
    Pictures are as large as those of the training, and at most as large as the base was made for.
    """
    if spec.base_weights or networkargs.read(spec, family is SDXL).algo != "lora":
        return None
    width, height = spec.resolution
    side = max(STRIDE, min(family.side, math.isqrt(width * height)) // STRIDE * STRIDE)
    seeds = SEEDS if side <= LARGE else SEEDS[:1]
    folders = [folder for folder in dataset.folders if not folder.regular]
    found = dict.fromkeys(trigger for folder in folders if (trigger := wording.shared(folder, spec).trigger))
    triggers = list(found)[:MOST_TRIGGERS]
    if triggers:
        seeds = seeds if len(triggers) == 1 else SEEDS[:1]
        return Grid(tuple(row for trigger in triggers for row in rows_of(trigger, (), seeds, NEGATIVE)), side)
    texts = [image.caption.split("\n")[0].strip()[:LONGEST] for folder in folders for image in folder.images]
    texts = list(dict.fromkeys(filter(None, texts)))[:MOST_CAPTIONS]
    texts = texts or [folder.concept.strip() for folder in folders if folder.concept.strip()][:1]
    return Grid(tuple(rows_of("", texts, seeds, NEGATIVE)), side) if texts else None


def rows_of(trigger: str, prompts: Sequence[str], seeds: Sequence[int], negative: str) -> list[Row]:
    """The trigger at the start, in the middle and at the end of a prompt, each with and without the negative prompt.

    Args:
        trigger: may be empty; then prompts are drawn as they are.
        prompts: parts at commas are what the trigger goes between; ``SCENES`` where there are none.
        seeds: each row is drawn with each of them.
        negative: "" for none at all.

    Raises:
        UsageError: neither a trigger nor a prompt.
    """
    if not trigger and not prompts:
        raise UsageError(
            "there is nothing to draw: neither a trigger nor a prompt",
            hint='--trigger WORD, as in the captions, or --prompt "a portrait, in the city".',
        )
    texts: list[str] = []
    for prompt in prompts or (", ".join(SCENES),):
        parts = [word.strip() for word in prompt.split(",") if word.strip()]
        places = (0, math.ceil(len(parts) / 2), len(parts)) if trigger else ()
        texts += [", ".join([*parts[:at], trigger, *parts[at:]]) for at in places] or [prompt]
    unique = dict.fromkeys(texts)
    negatives = dict.fromkeys(("", negative))
    return [Row(text, seed, against) for text in unique for against in negatives for seed in seeds]


def written(rows: Sequence[Row], steps: int) -> str:
    """As the engine reads it: TOML. A JSON string of ASCII is one of TOML as well."""
    tables = []
    for row in rows:
        keys = {"text": row.text, "seed": row.seed, "negative": row.negative, "label": row.label}
        tables.append("\n".join(["[[prompt]]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]))
    return f"steps = {steps}\n\n" + "\n".join(tables)
