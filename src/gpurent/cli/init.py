"""``gpurent init``."""

from __future__ import annotations

from pathlib import Path

from gpurent.cli import output
from gpurent.errors import UsageError
from gpurent.settings import TEMPLATE

TRAINING = """\
# kohya's keys; see docs/reference/training-config.md. Check it with: gpurent train --budget 10 --dry-run

[model]
pretrained_model_name_or_path = "stable-diffusion-v1-5/stable-diffusion-v1-5"

[dataset]
train_data_dir = "training_data"   # holds folders such as 10_my_concept/ with images and .txt captions
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
"""


def run(folder: Path, *, force: bool) -> int:
    """Write both files, or neither when one is there already."""
    files = {folder / "gpurent.toml": TEMPLATE, folder / "training_config.toml": TRAINING}
    existing = [path.name for path in files if path.exists()]
    if existing and not force:
        raise UsageError(f"{' and '.join(existing)} already there", hint="--force overwrites.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
        output.console.print(f"wrote {path}")
    output.console.print(
        "Next: put images into training_data/10_my_concept/, then `gpurent train --budget 10 --dry-run`."
    )
    return 0
