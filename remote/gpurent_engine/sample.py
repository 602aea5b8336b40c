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

from gpurent_engine import device, sheet
from gpurent_engine.bases import Opener, opened
from gpurent_engine.drawing import betas, decoded
from gpurent_engine.families import detect
from gpurent_engine.families.parts import Parts
from gpurent_engine.reading import read_toml
from gpurent_engine.sheet import GAP, HEADER, LABEL, MARGIN
from gpurent_engine.spec import TrainSpec

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
    cell: int = sheet.CELL
    side: int = 0
    """Pixels of what is drawn; 0: as many as the base was made for."""
    clip_skip: int = 0
    """As in training; 0: as the base has it."""


@dataclass(frozen=True)
class Source:
    """The base model that a grid is drawn with, as ``families.loading.load`` has it."""

    base_model: str
    half: bool = False
    vae: str = ""
    dtype: torch.dtype = torch.float32


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


def usual(base_model: str) -> Source:
    """A base in the precision in which people draw: fp16 on a GPU."""
    gpu = torch.cuda.is_available()
    return Source(base_model, half=gpu, dtype=torch.float16 if gpu else torch.float32)


def grid(
    source: Source, lora_file: Path, prompts: Sequence[Prompt], strengths: Sequence[float], *, settings: Settings,
    on_drawn: Callable[[float, int], None] = lambda _done, _total: None, opener: Opener = opened,
    spec: TrainSpec | None = None,
) -> Image.Image:  # fmt: skip
    """Draw every prompt without the LoRA and at each strength.

    Args:
        source: the base model.
        lora_file: the LoRA.
        prompts: one a row.
        strengths: one a column, after that of the base alone.
        settings: how.
        on_drawn: called at each step with pictures drawn so far, in parts of them and from 0 on, and in all.
        opener: reads the base model; what it hands out is changed.
        spec: of the training, for what a base does not say of itself.

    Raises:
        ModelError: the base model cannot be loaded.
        OSError: the file cannot be read.
        ValueError: the file holds no LoRA that diffusers can load.
    """
    parts = opener(source.base_model, source.half, source.vae, source.dtype).parts
    agreed = None if spec is None else detect.agree(parts.found, spec)
    prediction = parts.found.prediction or "epsilon" if agreed is None else agreed.prediction
    zero = parts.found.zero_terminal_snr if agreed is None else agreed.zero_terminal_snr
    pipeline = _pipeline(parts, prediction, zero).to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    side = settings.side or (parts.unet.config.sample_size or parts.family.side // 8) * parts.vae_factor
    total = len(prompts) * (1 + len(strengths))
    easel = _Easel(pipeline, parts, settings, side, sheet.at_once(side))
    columns: list[tuple[str, list[Image.Image]]] = []

    def column(label: str) -> None:
        before = len(columns) * len(prompts)
        columns.append((label, easel.draw(prompts, lambda done: on_drawn(before + done, total))))

    on_drawn(0, total)
    column("base")
    pipeline.load_lora_weights(str(lora_file.parent), weight_name=lora_file.name, adapter_name="lora")
    for strength in strengths:
        pipeline.set_adapters(["lora"], [strength])
        column(f"LoRA {strength:g}")
    return compose(columns, [prompt.label or prompt.text for prompt in prompts], settings.cell)


@dataclass
class _Easel:
    """Draws a column."""

    pipeline: Any
    parts: Parts
    settings: Settings
    side: int
    most: int
    """Pictures at once."""

    def draw(self, prompts: Sequence[Prompt], on_drawn: Callable[[float], None]) -> list[Image.Image]:
        """One picture a prompt, as many at once as memory takes."""
        found: list[Image.Image] = []
        while len(found) < len(prompts):
            some, before = prompts[len(found) : len(found) + self.most], len(found)

            def stepped(share: float, count: int = len(some), before: int = before) -> None:
                on_drawn(before + share * count)

            try:
                found += self._some(some, stepped)
            except (RuntimeError, MemoryError) as error:
                if self.most == 1 or not device.out_of_memory(error):
                    raise
                self.most = self.most // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return found

    def _some(self, prompts: Sequence[Prompt], on_step: Callable[[float], None]) -> list[Image.Image]:
        settings, parts = self.settings, self.parts

        def stepped(_pipeline: object, step: int, _time: object, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step((step + 1) / settings.steps)
            return tensors

        more = {}
        if settings.clip_skip > 1 and not parts.family.size_conditioning:
            more["clip_skip"] = settings.clip_skip - 1  # diffusers counts the layers that are left out
        latents = self.pipeline(
            [prompt.text for prompt in prompts],
            negative_prompt=[prompt.negative for prompt in prompts],
            num_inference_steps=settings.steps,
            height=self.side,
            width=self.side,
            guidance_scale=settings.guidance,
            generator=[torch.Generator().manual_seed(prompt.seed) for prompt in prompts],
            output_type="latent",
            callback_on_step_end=stepped,
            **more,
        ).images
        # each by itself and in float32: VAEs of Stable Diffusion overflow in fp16, and take much memory
        return [_picture(decoded(parts.vae, one[None].float() / parts.vae_scale, latents.device)) for one in latents]


def _picture(pixels: torch.Tensor) -> Image.Image:
    """From float32 ``[3, h, w]`` in 0…1."""
    return Image.fromarray((pixels.nan_to_num() * 255).round().byte().permute(1, 2, 0).numpy())


def _pipeline(parts: Parts, prediction: str, zero_terminal_snr: bool) -> Any:
    """diffusers' own pipeline around the parts, whatever they were read from."""
    import diffusers

    library: Any = diffusers
    scheduler = library.DDIMScheduler(
        trained_betas=betas(parts.alphas_cumprod), clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        prediction_type=prediction, rescale_betas_zero_snr=zero_terminal_snr,
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


def compose(columns: Sequence[tuple[str, Sequence[Image.Image]]], rows: Sequence[str], cell: int) -> Image.Image:
    """Lay pictures out with a header a column and a label a row."""
    paper = Image.new("RGB", sheet.size(len(rows), len(columns), cell), PAPER)
    pen = ImageDraw.Draw(paper)
    title, small = ImageFont.load_default(size=18), ImageFont.load_default(size=15)
    for i, (label, pictures) in enumerate(columns):
        left = MARGIN + LABEL + i * (cell + GAP)
        pen.text((left + cell / 2, MARGIN + HEADER / 2), label, INK, title, anchor="mm")
        for j, picture in enumerate(pictures):
            scaled = picture.resize((cell, cell), Image.Resampling.LANCZOS)
            paper.paste(scaled, (left, MARGIN + HEADER + j * (cell + GAP)))
    for j, text in enumerate(rows):
        top = MARGIN + HEADER + j * (cell + GAP)
        for k, line in enumerate(_wrapped(text, LABEL - 12, small)):
            pen.text((MARGIN, top + 8 + 20 * k), line, INK if k == 0 else FAINT, small)
    return paper


def _wrapped(text: str, width: int, font: Any) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
