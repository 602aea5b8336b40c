"""The two examples that ship: a base model that is complete and small, and a dataset as people prepare one."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from transformers import CLIPTokenizer

from gpurent import Job

EXAMPLES = Path(__file__).parents[2] / "examples"
BASE = EXAMPLES / "tiny-sd"
STYLE = EXAMPLES / "fluent-style"
PICTURES = sorted((STYLE / "training_data" / "10_fluent3d").glob("*.png"))
TRIGGER = "fluent style"
LIMIT = 12_000_000


@pytest.fixture(scope="module")
def pipeline() -> Any:
    loaded = StableDiffusionPipeline.from_pretrained(BASE, torch_dtype=torch.float32, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_base_model_fits_the_repository_in_half_precision() -> None:
    """At most 12 MB in all, and every weight is stored as float16."""
    assert sum(file.stat().st_size for file in BASE.rglob("*") if file.is_file()) <= LIMIT
    weights = sorted(BASE.rglob("*.safetensors"))
    assert [file.parent.name for file in weights] == ["text_encoder", "unet", "vae"]
    for file in weights:
        with safe_open(file, framework="pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


def test_the_base_model_is_a_stable_diffusion_that_draws(pipeline: Any) -> None:
    """Diffusers loads it by its own index; a prompt gives a picture with content, and another prompt another one."""

    def draw(prompt: str) -> torch.Tensor:
        seeded = torch.Generator().manual_seed(3)
        images = pipeline(prompt, num_inference_steps=8, guidance_scale=2.5, output_type="pt", generator=seeded).images
        return torch.as_tensor(images)[0]

    lemon, heart = draw("lemon"), draw("purple heart")
    assert lemon.shape == (3, 64, 64) and torch.isfinite(lemon).all()
    assert lemon.std() > 0.05
    assert (lemon - heart).abs().mean() > 0.02


def test_the_latents_are_a_quarter_of_the_picture(pipeline: Any) -> None:
    """Three levels, factor 4: nothing that reads this model may assume 8."""
    assert pipeline.vae_scale_factor == 4
    with torch.no_grad():
        latents = pipeline.vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()
    assert latents.shape == (1, 4, 16, 16)


def test_the_tokenizer_is_a_trained_byte_pair_encoder(pipeline: Any) -> None:
    """Common words are one token, unknown ones fall into pieces, and text comes back as it went in."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer", local_files_only=True)
    assert json.loads((BASE / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    assert len(tokenizer.tokenize("face")) == 1
    pieces = tokenizer.tokenize("quixotic")
    assert 1 < len(pieces) < len("quixotic") + 1 and tokenizer.unk_token not in pieces[:-1]
    ids = tokenizer("smiling face with sunglasses, fluent style").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == [
        "smiling", "face", "with", "sunglasses", ",", "fluent", "style",
    ]  # fmt: skip
    assert len(tokenizer) == pipeline.text_encoder.config.vocab_size
    assert tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings


def test_the_dataset_has_thirty_captioned_pictures() -> None:
    """kohya's layout; each picture is 64×64 RGB and whole, and each caption ends with the trigger phrase."""
    assert len(PICTURES) == 30
    for path in PICTURES:
        with Image.open(path) as picture:
            picture.load()
            assert (picture.size, picture.mode) == ((64, 64), "RGB"), path
        caption = path.with_suffix(".txt").read_text(encoding="utf-8")
        assert caption.strip().endswith(f", {TRIGGER}"), path
        assert caption.strip() != f", {TRIGGER}", path


def test_the_configuration_is_a_job_for_a_minute() -> None:
    """It names the base model next door, and trains at least the 150 steps at which the style shows."""
    job = Job.from_config(STYLE / "training_config.toml")
    assert (job.name, len(job.dataset.images), job.base_model.name) == ("fluent3d", 30, "tiny-sd")
    assert 150 <= job.length.steps <= 1000
    assert job.spec.train_text_encoder and job.spec.train_unet


def test_the_prompts_ask_for_the_style_and_for_something_new() -> None:
    """Five prompts with the trigger and a seed each; at least one subject is not in the dataset."""
    prompts = tomllib.loads((STYLE / "prompts.toml").read_text(encoding="utf-8"))["prompt"]
    captions = {path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in PICTURES}
    assert len(prompts) == 5
    assert all(one["text"].endswith(TRIGGER) and isinstance(one["seed"], int) for one in prompts)
    assert {one["text"] for one in prompts} - captions
