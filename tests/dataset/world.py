"""Real pictures, captions, configurations and base models in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

GUIDE = """\
[model]
pretrained_model_name_or_path = "{model}"
v2 = false
v_parameterization = false

[dataset]
train_data_dir = "training_data"
resolution = 512
batch_size = 2
enable_bucket = true
min_bucket_reso = 256
max_bucket_reso = 1024

[training]
output_dir = "output"
output_name = "my_lora"
max_train_epochs = 10
learning_rate = 1e-4
unet_lr = 1e-4
text_encoder_lr = 5e-5
lr_scheduler = "cosine_with_restarts"
lr_warmup_steps = 100
network_dim = 32
network_alpha = 16
optimizer_type = "AdamW8bit"
mixed_precision = "fp16"
save_every_n_epochs = 2
save_model_as = "safetensors"
"""
HUB = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def picture(path: Path, size: tuple[int, int] = (640, 512), shade: int = 0) -> Path:
    """A gradient, so that every shade is another file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    moved = [(value + shade) % 256 for value in range(256)]
    Image.linear_gradient("L").resize(size).point(moved).convert("RGB").save(path)
    return path


def dataset(root: Path, count: int = 20, folder: str = "10_sks_cat", suffix: str = "png") -> Path:
    """``count`` pictures with captions that begin with the trigger."""
    for number in range(count):
        file = picture(root / folder / f"image{number:03d}.{suffix}", shade=number * 5)
        file.with_suffix(".txt").write_text(f"sks cat, sitting on chair {number}", encoding="utf-8")
    return root


def config(folder: Path, text: str | None = None, model: str = HUB) -> Path:
    """The configuration most people start from."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "training_config.toml"
    path.write_text(GUIDE.format(model=model) if text is None else text, encoding="utf-8")
    return path


def working_folder(folder: Path, count: int = 20) -> Path:
    """Configuration and dataset side by side; returns the configuration."""
    dataset(folder / "training_data", count)
    return config(folder)


def safetensors(path: Path, names: Mapping[str, int] | list[str]) -> Path:
    """A well-formed safetensors file with one float16 number for each name."""
    header = {
        name: {"dtype": "F16", "shape": [1], "data_offsets": [2 * at, 2 * at + 2]} for at, name in enumerate(names)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0" * len(header))
    return path


def diffusers_folder(path: Path) -> Path:
    """The files of a diffusers model, with the twins and pickles that real ones have."""
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        safetensors(path / part / f"{name}.safetensors", ["weight"])
        safetensors(path / part / f"{name}.fp16.safetensors", ["weight"])
        (path / part / "pytorch_model.bin").write_bytes(b"pickle")
        (path / part / "config.json").write_text(json.dumps({"cross_attention_dim": 768}), encoding="utf-8")
    for file, text in (
        ("model_index.json", '{"_class_name": "StableDiffusionPipeline"}'), ("tokenizer/vocab.json", "{}"),
        ("tokenizer/merges.txt", ""), ("scheduler/scheduler_config.json", '{"prediction_type": "epsilon"}'),
    ):  # fmt: skip
        (path / file).parent.mkdir(exist_ok=True)
        (path / file).write_text(text, encoding="utf-8")
    safetensors(path / "safety_checker" / "model.safetensors", ["weight"])
    return path
