"""Writing a training back for kohya's own trainer: every key whose value it would otherwise choose differently."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from gpurent.convert import value
from gpurent_engine.spec import TrainSpec

OURS = frozenset(("save_state_every_n_minutes", "sdxl_crop_coordinates", "weight_decay", "warnings", "subsets"))
"""Keys that kohya's trainer does not have."""
ALWAYS = (
    "pretrained_model_name_or_path", "network_module", "network_dim", "network_alpha", "learning_rate",
    "optimizer_type", "resolution", "save_precision", "seed", "train_batch_size", "caption_extension",
    "mixed_precision",
)  # fmt: skip
"""Keys that are written whatever they are: its defaults differ, or its users expect them."""


def export(spec: TrainSpec) -> tuple[str, list[str]]:
    """kohya's TOML, and sentences about what it does not carry."""
    keys: dict[str, Any] = {}
    for field in fields(spec):
        found = getattr(spec, field.name)
        plain = None if field.default is MISSING else field.default
        if field.name not in OURS and (field.name in ALWAYS or found != plain):
            keys[field.name] = found
    keys["resolution"] = f"{spec.resolution[0]},{spec.resolution[1]}"  # kohya splits a string
    keys["caption_extension"] = spec.caption_extension or ".txt"
    if spec.max_train_epochs is None:
        keys["max_train_steps"] = spec.max_train_steps
    if spec.weight_decay != 0.01 and not any(
        optimizer_arg.startswith("weight_decay=") for optimizer_arg in spec.optimizer_args
    ):
        keys["optimizer_args"] = [*spec.optimizer_args, f"weight_decay={spec.weight_decay}"]
    lost = []
    if spec.subsets and not spec.dataset_config:
        lost.append("The folders of the dataset are not written: kohya's trainer reads them from a dataset_config.")
    if spec.metadata_thumbnail.startswith("data:"):
        keys.pop("metadata_thumbnail", None)
    keys |= {"cache_latents": True, "sdpa": True, "save_model_as": "safetensors"}
    lines = [f"{name} = {value(given)}" for name, given in keys.items() if given not in (None, "", ())]
    return "\n".join(["# For kohya-ss/sd-scripts: train_network.py --config_file FILE", "", *lines]) + "\n", lost
