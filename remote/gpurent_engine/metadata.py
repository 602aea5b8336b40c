"""What a LoRA file says of itself: kohya's ``ss_`` keys and modelspec, as readers look for them.

Sources: kohya-ss/sd-scripts ``train_network.py`` and ``library/sai_model_spec.py`` (modelspec 1.0.1,
github.com/Stability-AI/ModelSpec). All values are strings; Python's ``None``, ``True`` and ``False`` are spelled out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gpurent_engine import __version__
from gpurent_engine.basefile import BaseHashes
from gpurent_engine.buckets import Length, Placement
from gpurent_engine.data import Dataset
from gpurent_engine.families import Family
from gpurent_engine.families.detect import Agreed
from gpurent_engine.spec import TrainSpec

_NONE = ("sd_scripts_commit_hash",)
_HELD = ("validation_seed", "max_validation_steps", "validate_every_n_epochs", "validate_every_n_steps")
_OFF = ("fp8_base", "fp8_base_unet", "full_fp16", "lowram")
_ASIS = (
    "learning_rate", "unet_lr", "lr_scheduler", "gradient_checkpointing", "gradient_accumulation_steps",
    "network_module", "network_dim", "network_alpha", "mixed_precision", "clip_skip", "max_token_length", "seed",
    "noise_offset_random_strength", "ip_noise_gamma_random_strength", "min_snr_gamma", "max_grad_norm",
    "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "prior_loss_weight",
    "loss_type", "resolution", "shuffle_caption", "enable_bucket", "bucket_no_upscale", "min_bucket_reso",
    "max_bucket_reso", "keep_tokens", "flip_aug", "color_aug", "random_crop",
)  # fmt: skip
_OR_NONE = (
    "noise_offset", "adaptive_noise_scale", "multires_noise_iterations", "ip_noise_gamma", "scale_weight_norms",
    "network_dropout", "training_comment", "resize_interpolation", "face_crop_aug_range",
)  # fmt: skip
"""Keys whose empty value kohya's trainer writes as None."""


@dataclass(frozen=True)
class RunFacts:
    """What the metadata says of the run, besides the configuration. ``optimizer`` is ``module.Class(arguments)``."""

    family: Family
    agreed: Agreed
    dataset: Dataset
    placements: tuple[Placement, ...]
    length: Length
    warmup: int
    optimizer: str
    started_at: float
    session_id: str
    base: BaseHashes
    held: int = 0
    """Pictures that are not trained on."""


def kohya_metadata(spec: TrainSpec, facts: RunFacts, *, step: int, epoch: int, finished_at: float) -> dict[str, str]:
    """The ``ss_`` keys in the shape of folder datasets; every value a string."""
    base, owners, repeats = facts.base.result(), facts.dataset.owners, facts.dataset.repeats
    folders = [one for one in facts.dataset.folders if not one.regular]
    regular = [one for one in facts.dataset.folders if one.regular]
    bent = spec.loss_type in ("huber", "smooth_l1")
    values: dict[str, object] = {
        "session_id": facts.session_id,
        "training_started_at": facts.started_at,
        "training_finished_at": finished_at,
        "output_name": spec.output_name,
        "text_encoder_lr": _rate(spec.text_encoder_lr),
        **{key: getattr(spec, key) for key in _ASIS},
        **{key: getattr(spec, key) or None for key in _OR_NONE},
        "num_train_images": sum(count for count, one in zip(repeats, owners, strict=True) if not one.regular),
        "num_reg_images": sum(one.repeats for one in owners if one.regular),
        "num_validation_images": facts.held,
        "num_batches_per_epoch": facts.length.batches_per_epoch,
        "num_epochs": facts.length.epochs,
        "epoch": epoch,
        "steps": step,
        "max_train_steps": facts.length.steps,
        "lr_warmup_steps": facts.warmup,
        "network_args": dict(one.split("=", 1) for one in spec.network_args),
        "debiased_estimation": spec.debiased_estimation_loss,
        "multires_noise_discount": spec.multires_noise_discount if spec.multires_noise_iterations else None,
        **{key: getattr(spec, key) if bent else None for key in ("huber_schedule", "huber_scale", "huber_c")},
        "v2": facts.family.name == "sd2",
        "base_model_version": facts.family.base_model_version + (facts.family.v_suffix if predicts_v(facts) else ""),
        "cache_latents": not (spec.color_aug or spec.random_crop),
        **dict.fromkeys(_NONE),
        **{key: getattr(spec, key) if facts.held else None for key in _HELD},
        **dict.fromkeys(_OFF, False),
        "zero_terminal_snr": facts.agreed.zero_terminal_snr,
        "optimizer": facts.optimizer,
        "validation_split": spec.validation_split,
        "sd_model_name": base.name,
        "sd_model_hash": base.legacy_hash,
        "new_sd_model_hash": base.sha256,
        "batch_size_per_device": spec.train_batch_size,
        "total_batch_size": spec.train_batch_size * spec.gradient_accumulation_steps,
        "dataset_dirs": {one.name: {"n_repeats": one.repeats, "img_count": len(one.images)} for one in folders},
        "reg_dataset_dirs": {one.name: {"n_repeats": one.repeats, "img_count": len(one.images)} for one in regular},
        "tag_frequency": {one.name: _tags(tuple(image.caption for image in one.images)) for one in folders},
        "bucket_info": _bucket_info(facts) if spec.enable_bucket else None,
    }
    # kohya writes JSON for tables, also for the absent table of buckets
    return {
        f"ss_{key}": json.dumps(value) if isinstance(value, dict) or key == "bucket_info" else str(value)
        for key, value in values.items()
    }


def predicts_v(facts: RunFacts) -> bool:
    """Whether the base predicts v."""
    return facts.agreed.prediction == "v_prediction"


def _rate(rates: tuple[float, ...] | None) -> float | list[float] | None:
    """As kohya's configuration had it: a number for one, a list for several."""
    return rates[0] if rates and len(rates) == 1 else list(rates) if rates else None


def _tags(captions: tuple[str, ...]) -> dict[str, int]:
    return dict(Counter(tag.strip().lower() for caption in captions for tag in caption.split(",") if tag.strip()))


def _bucket_info(facts: RunFacts) -> dict[str, object]:
    counts: Counter[tuple[int, int]] = Counter()
    error = 0.0
    for placement, repeats, image in zip(facts.placements, facts.dataset.repeats, facts.dataset.images, strict=True):
        counts[placement.bucket] += repeats
        error += abs(placement.bucket[0] / placement.bucket[1] - image.width / image.height)
    buckets = {str(i): {"resolution": list(size), "count": counts[size]} for i, size in enumerate(sorted(counts))}
    return {"buckets": buckets, "mean_img_ar_error": error / len(facts.placements)}


def modelspec(spec: TrainSpec, facts: RunFacts, finished_at: float, digest: str) -> dict[str, str]:
    """modelspec 1.0.1 keys; empty optional ones are left out."""
    from datetime import datetime, timezone

    required: Mapping[str, str] = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{facts.family.v_architecture if predicts_v(facts) else facts.family.architecture}/lora",
        "implementation": facts.family.implementation,
        "implementation_version": f"gpurent/{__version__}",
        "title": spec.metadata_title or spec.output_name,
        "resolution": f"{spec.resolution[0]}x{spec.resolution[1]}",
        "date": datetime.fromtimestamp(int(finished_at), timezone.utc).replace(tzinfo=None).isoformat(),
        "prediction_type": "v" if predicts_v(facts) else "epsilon",
        "hash_sha256": f"0x{digest}",
    }
    optional = {
        "encoder_layer": str(spec.clip_skip or ""),
        "author": spec.metadata_author, "description": spec.metadata_description, "license": spec.metadata_license,
        "tags": spec.metadata_tags, "trigger_phrase": spec.metadata_trigger_phrase or common_phrase(facts.dataset),
        "usage_hint": spec.metadata_usage_hint, "merged_from": spec.metadata_merged_from,
        "preprocessor": spec.metadata_preprocessor, "is_negative_embedding": spec.metadata_is_negative_embedding,
        "thumbnail": spec.metadata_thumbnail,
    }  # fmt: skip
    return {f"modelspec.{key}": value for key, value in (*required.items(), *optional.items()) if value}


def common_phrase(dataset: Dataset) -> str:
    """The tags that stand in every caption: the trigger phrase, if the captions have one."""
    captions = [[tag.strip() for tag in image.caption.split(",")] for image in dataset.images]
    return ", ".join(tag for tag in captions[0] if tag and all(tag in others for others in captions))
