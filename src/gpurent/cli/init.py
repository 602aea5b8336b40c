"""``gpurent init``."""

from __future__ import annotations

from pathlib import Path

from gpurent.cli import output
from gpurent.errors import UsageError
from gpurent.settings import TEMPLATE
from gpurent_engine.reference import OURS

TRAINING = """\
# kohya's keys; see docs/reference/training-config.md. Check it with: gpurent check

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


DATASET = "dataset_config.toml"


def run(folder: Path, *, force: bool, source: Path | None = None, export: Path | None = None) -> int:
    """Write a configuration to start from, or one converted from ``source``; or write one back for kohya's trainer."""
    if export is not None:
        return _export(folder, export, force=force)
    files, notes = _files(folder, source)
    existing = [path.name for path in files if path.exists()]
    if existing and not force:
        raise UsageError(f"{' and '.join(existing)} already there", hint="--force overwrites.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
        output.console.print(f"wrote {path}")
    for note in notes:
        output.console.print(f"not carried over: {note}", markup=False)
    if source is not None:
        output.console.print("Next: look through training_config.toml, then `gpurent check`.")
        return 0
    output.console.print(
        "Where kohya's trainer has other defaults: " + "; ".join(f"{key} ({its} there)" for key, its in OURS.items())
    )
    output.console.print("Next: put images into training_data/10_my_concept/, then `gpurent check`.")
    return 0


def _files(folder: Path, source: Path | None) -> tuple[dict[Path, str], list[str]]:
    if source is None:
        return {folder / "gpurent.toml": TEMPLATE, folder / "training_config.toml": TRAINING}, []
    from gpurent import convert

    found = convert.convert(source)
    training, dataset = convert.toml(found, DATASET)
    files = {folder / "gpurent.toml": TEMPLATE, folder / "training_config.toml": training}
    return (files | {folder / DATASET: dataset} if dataset else files), found.lost


def _export(folder: Path, config: Path, *, force: bool) -> int:
    from gpurent.convert.kohya import export
    from gpurent.dataset.configfile import read_spec

    text, lost = export(read_spec(config))
    target = folder / f"{config.stem}-kohya.toml"
    if target.exists() and not force:
        raise UsageError(f"{target.name} already there", hint="--force overwrites.")
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    output.console.print(f"wrote {target}")
    for note in lost:
        output.console.print(note, markup=False)
    return 0
