"""A random Stable Diffusion 1.x in miniature: every part real, everything small, built in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import torch
import transformers as typed_transformers
from PIL import Image, ImageDraw

transformers: Any = typed_transformers
diffusers: Any = typed_diffusers  # its annotations contradict its own defaults

START, END = "<|startoftext|>", "<|endoftext|>"
COLOURS = ("red", "green", "blue", "gold", "black", "teal")
MERGES = ["r e", "re d</w>", "o r", "s t", "st y", "sty l", "styl e</w>", "b l", "c i", "ci r"]


def build(folder: Path) -> Path:
    """Save the model as a diffusers folder and return it."""
    torch.manual_seed(0)
    words = tokenizer()
    pipeline: Any = diffusers.StableDiffusionPipeline(
        vae=_vae(), text_encoder=_text_encoder(words), tokenizer=words, unet=_unet(),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def pictures(root: Path, count: int = 6, *, repeats: int = 1, size: int = 32) -> Path:
    """A dataset of coloured discs with captions that share a trigger."""
    folder = root / f"{repeats}_disc"
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture = Image.new("RGB", (size, size), "white")
        colour = COLOURS[i % len(COLOURS)]
        ImageDraw.Draw(picture).ellipse((4 + i % 5, 6, size - 6, size - 4 - i % 3), fill=colour)
        picture.save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"zq style, {colour} circle")
    return root


def tokenizer() -> Any:
    """A byte pair encoder of a few tokens."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(one.split()) for one in MERGES), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [(left, right) for left, right in (one.split() for one in MERGES)]
    return transformers.CLIPTokenizer(
        vocab=vocabulary, merges=merges, bos_token=START, eos_token=END, unk_token=END, pad_token=END,
        model_max_length=77,
    )  # fmt: skip


def _vae() -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
    )  # fmt: skip


def _text_encoder(words: Any) -> Any:
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=77, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )  # fmt: skip


def _unet() -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
