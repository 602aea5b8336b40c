"""A picture that lets a person judge a LoRA: base and several strengths side by side, for fixed prompts and seeds.

The LoRA goes through diffusers' own ``load_lora_weights``: what the grid shows is what others will see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from gpurent_engine.drawing import betas
from gpurent_engine.families import loading
from gpurent_engine.families.parts import Parts
from gpurent_engine.reading import read_toml

MARGIN, GAP, HEADER, LABEL = 16, 6, 34, 190
INK, PAPER, FAINT = "#1c1c22", "#ffffff", "#70707a"


@dataclass(frozen=True)
class Prompt:
    """One row of the grid."""

    text: str
    seed: int
    negative: str = ""
    label: str = ""
    """What stands beside the row; empty: the text."""


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn."""

    steps: int = 30
    guidance: float = 5.0
    cell: int = 192


def read_prompts(path: Path) -> tuple[list[Prompt], Settings]:
    """Read a ``prompts.toml``: ``steps``, ``guidance``, ``cell``, and ``[[prompt]]`` tables.

    A table has ``text`` and ``seed``, and may have ``negative`` and ``label``.
    """
    document = read_toml(path.name, path.read_text(encoding="utf-8"))
    prompts = [
        Prompt(one["text"], int(one["seed"]), one.get("negative", ""), one.get("label", ""))
        for one in document["prompt"]
    ]
    given = {key: document[key] for key in ("steps", "guidance", "cell") if key in document}
    return prompts, Settings(**given)


def grid(
    base_model: str, lora_file: Path, prompts: Sequence[Prompt], strengths: Sequence[float], *, settings: Settings,
    on_column: Callable[[str], None] = lambda _label: None,
) -> Image.Image:  # fmt: skip
    """Draw every prompt without the LoRA and at each strength.

    Raises:
        ModelError: the base model cannot be loaded.
        OSError: the file cannot be read.
        ValueError: the file holds no LoRA that diffusers can load.
    """
    parts = loading.load(base_model)
    pipeline = _pipeline(parts).to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    side = (parts.unet.config.sample_size or parts.family.side // 8) * parts.vae_factor
    columns = [("base", _draw(pipeline, prompts, settings, side))]
    on_column("base")
    pipeline.load_lora_weights(str(lora_file.parent), weight_name=lora_file.name, adapter_name="lora")
    for strength in strengths:
        pipeline.set_adapters(["lora"], [strength])
        columns.append((f"LoRA {strength:g}", _draw(pipeline, prompts, settings, side)))
        on_column(columns[-1][0])
    return compose(columns, [prompt.label or prompt.text for prompt in prompts], settings.cell)


def _pipeline(parts: Parts) -> Any:
    """diffusers' own pipeline around the parts, whatever they were read from."""
    import diffusers

    library: Any = diffusers
    found = parts.found
    scheduler = library.DDIMScheduler(
        trained_betas=betas(parts.alphas_cumprod), clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        prediction_type=found.prediction or "epsilon", rescale_betas_zero_snr=found.zero_terminal_snr,
    )  # fmt: skip
    models: dict[str, Any] = {"vae": parts.vae, "unet": parts.unet, "scheduler": scheduler}
    for encoder in parts.text_encoders:
        models[encoder.facts.folder] = encoder.model
        models[encoder.facts.tokenizer] = encoder.tokenizer.for_transformers()
    if parts.family.size_conditioning:
        # an empty negative prompt is encoded, as AUTOMATIC1111's and ComfyUI's users know it
        return library.StableDiffusionXLPipeline(**models, force_zeros_for_empty_prompt=False)
    models |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return library.StableDiffusionPipeline(**models)


def _draw(pipeline: Any, prompts: Sequence[Prompt], settings: Settings, side: int) -> list[Image.Image]:
    pictures: list[Image.Image] = pipeline(
        [prompt.text for prompt in prompts],
        negative_prompt=[prompt.negative for prompt in prompts],
        num_inference_steps=settings.steps,
        height=side,
        width=side,
        guidance_scale=settings.guidance,
        generator=[torch.Generator().manual_seed(prompt.seed) for prompt in prompts],
    ).images
    return pictures


def compose(columns: Sequence[tuple[str, Sequence[Image.Image]]], rows: Sequence[str], cell: int) -> Image.Image:
    """Lay pictures out with a header a column and a label a row."""
    width = 2 * MARGIN + LABEL + len(columns) * (cell + GAP)
    height = 2 * MARGIN + HEADER + len(rows) * (cell + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(size=18), ImageFont.load_default(size=15)
    for i, (label, pictures) in enumerate(columns):
        left = MARGIN + LABEL + i * (cell + GAP)
        pen.text((left + cell / 2, MARGIN + HEADER / 2), label, INK, title, anchor="mm")
        for j, picture in enumerate(pictures):
            scaled = picture.resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(scaled, (left, MARGIN + HEADER + j * (cell + GAP)))
    for j, text in enumerate(rows):
        top = MARGIN + HEADER + j * (cell + GAP)
        for k, line in enumerate(_wrapped(text, LABEL - 12, small)):
            pen.text((MARGIN, top + 8 + 20 * k), line, INK if k == 0 else FAINT, small)
    return sheet


def _wrapped(text: str, width: int, font: Any) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
