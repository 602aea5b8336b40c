"""OneTrainer's JSON: names of Nerogar/OneTrainer ``modules/util/config/TrainConfig.py`` and ``ConceptConfig.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpurent.convert import Converted
from gpurent.errors import ConfigError
from gpurent.localfiles import read_text

_FAMILIES = {
    "STABLE_DIFFUSION_15": (False, False), "STABLE_DIFFUSION_20": (True, True),
    "STABLE_DIFFUSION_20_BASE": (True, False),
    "STABLE_DIFFUSION_21": (True, True), "STABLE_DIFFUSION_21_BASE": (True, False),
    "STABLE_DIFFUSION_XL_10_BASE": (False, False),
}  # fmt: skip
"""model_type: v2, v-prediction."""
_OPTIMISERS = {
    "ADAMW": "AdamW", "ADAMW_8BIT": "AdamW8bit", "ADAM": "AdamW", "ADAM_8BIT": "AdamW8bit", "PRODIGY": "Prodigy",
    "LION": "Lion", "LION_8BIT": "Lion8bit", "ADAFACTOR": "Adafactor", "DADAPT_ADAM": "DAdaptAdam",
    "DADAPT_SGD": "DAdaptSGD", "DADAPT_ADA_GRAD": "DAdaptAdaGrad", "DADAPT_ADAN": "DAdaptAdan",
    "SCHEDULE_FREE_ADAMW": "AdamWScheduleFree", "SCHEDULE_FREE_SGD": "SGDScheduleFree", "SGD": "SGDNesterov",
}  # fmt: skip
_SCHEDULES = {
    "CONSTANT": "constant", "LINEAR": "linear", "COSINE": "cosine", "COSINE_WITH_RESTARTS": "cosine_with_restarts",
    "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
}  # fmt: skip
_PRECISION = {"BFLOAT_16": "bf16", "FLOAT_16": "fp16", "FLOAT_32": "float", "TFLOAT_32": "float"}
_OFF = (None, "", False, 0, 0.0, "OFF", "NONE", "NEVER", "DEFAULT")
_NAMED = ("ema", "layer_filter", "timestep_distribution", "learning_rate_scaler", "additional_embeddings",
          "embedding_learning_rate", "mae_strength", "log_cosh_strength", "huber_strength")  # fmt: skip
"""Settings that change the result, and have no counterpart."""


def convert(document: Mapping[str, Any], here: Path) -> Converted:
    """Turn a preset or a saved configuration into kohya's keys.

    Args:
        document: as read.
        here: where a relative ``concept_file_name`` starts.

    Raises:
        ConfigError: it trains something else than a LoRA of a family that is trained here.
    """
    found = Converted("OneTrainer")
    if document.get("training_method") != "LORA":
        raise ConfigError(
            f"The configuration trains {document.get('training_method')}.", hint="LoRAs can be trained here."
        )
    family = str(document.get("model_type", "STABLE_DIFFUSION_15"))
    if family not in _FAMILIES:
        raise ConfigError(
            f"The configuration trains {family}.", hint="Stable Diffusion 1.x, 2.x and XL can be trained here."
        )
    v2, v = _FAMILIES[family]
    warm = document.get("learning_rate_warmup_steps") or 0
    rate = document.get("learning_rate") or 3e-6
    target = Path(str(document.get("output_model_destination") or "lora").replace("\\", "/"))
    keys = found.keys
    keys |= {
        "pretrained_model_name_or_path": str(document["base_model_name"]), "v2": v2,
        "v_parameterization": v or bool(document.get("force_v_prediction")),
        "zero_terminal_snr": bool(document.get("rescale_noise_scheduler_to_zero_terminal_snr")),
        "output_name": target.stem or "lora", "resolution": _size(document.get("resolution", "512"), found),
        "enable_bucket": bool(document.get("aspect_ratio_bucketing", True)),
        "train_batch_size": document.get("batch_size") or 1,
        "gradient_accumulation_steps": document.get("gradient_accumulation_steps") or 1,
        "max_train_epochs": document.get("epochs") or 100, "learning_rate": rate,
        "unet_lr": _rate(document.get("unet"), rate), "text_encoder_lr": _encoders(document, rate),
        "network_dim": document.get("lora_rank") or 16, "network_alpha": document.get("lora_alpha") or 1.0,
        "noise_offset": document.get("offset_noise_weight") or 0.0,
        "ip_noise_gamma": document.get("perturbation_noise_weight") or 0.0,
        "max_grad_norm": document.get("clip_grad_norm") or 1.0,
        "gradient_checkpointing": document.get("gradient_checkpointing", "ON") not in ("OFF", False),
        "mixed_precision": {"float": "no"}.get(dtype := _dtype(document, "train_dtype"), dtype),
        "save_precision": _dtype(document, "output_dtype"), "lr_warmup_steps": int(warm) if warm >= 1 else float(warm),
    }  # fmt: skip
    if document.get("seed") is not None:
        keys["seed"] = document["seed"]
    _optimiser(document, found)
    _network(document, found)
    _weights(document, found)
    if keys["lr_scheduler"] == "constant" and warm:
        keys["lr_scheduler"] = "constant_with_warmup"
    _concepts(document, here, found)
    found.lost += [f"{key}: it has no counterpart." for key in _NAMED if document.get(key) not in _OFF]
    return found


def _size(value: Any, found: Converted) -> str:
    sizes = [word.strip() for word in str(value).split(",")]
    if len(sizes) > 1 and all(size.isdigit() for size in sizes):
        found.lost.append(f"resolution: of {', '.join(sizes)} only {sizes[-1]} is trained.")
    return sizes[-1].replace("x", ",")


def _dtype(document: Mapping[str, Any], key: str) -> str:
    return _PRECISION.get(str(document.get(key)), "fp16")


def _rate(part: Any, rate: float) -> float:
    if not isinstance(part, Mapping):
        return rate
    return float(part.get("learning_rate") or rate) if part.get("train", True) else 0.0


def _encoders(document: Mapping[str, Any], rate: float) -> list[float]:
    parts = [document.get(key) for key in ("text_encoder", "text_encoder_2")]
    return [_rate(part, rate) for part in parts if isinstance(part, Mapping)] or [rate]


def _optimiser(document: Mapping[str, Any], found: Converted) -> None:
    table = document.get("optimizer")
    name = str(table.get("optimizer") if isinstance(table, Mapping) else table or "ADAMW")
    if name not in _OPTIMISERS:
        found.lost.append(f"optimizer: {name} is not known here; AdamW is used.")
    found.keys["optimizer_type"] = _OPTIMISERS.get(name, "AdamW")
    if isinstance(table, Mapping) and table.get("weight_decay") is not None:
        found.keys["optimizer_args"] = [f"weight_decay={table['weight_decay']}"]
    curve = str(document.get("learning_rate_scheduler") or "CONSTANT")
    if curve not in _SCHEDULES:
        found.lost.append(f"learning_rate_scheduler: {curve} is not known here; constant is used.")
    found.keys["lr_scheduler"] = _SCHEDULES.get(curve, "constant")
    if document.get("learning_rate_cycles"):
        found.keys["lr_scheduler_num_cycles"] = max(1, round(float(document["learning_rate_cycles"])))


def _network(document: Mapping[str, Any], found: Converted) -> None:
    kind = str(document.get("peft_type") or "LORA")
    if kind not in ("LORA", "LOHA"):
        raise ConfigError(f"The configuration trains {kind}.", hint="LORA and LOHA can be trained here.")
    arguments = ["algo=loha" if kind == "LOHA" else "algo=lora", "preset=attn-mlp"]
    if document.get("lora_decompose"):
        arguments.append("dora_wd=True")
    if len(arguments) > 2 or kind == "LOHA":
        found.keys |= {"network_module": "lycoris.kohya", "network_args": arguments}
    if document.get("dropout_probability"):
        found.keys["network_dropout"] = document["dropout_probability"]


def _weights(document: Mapping[str, Any], found: Converted) -> None:
    weight, strength = str(document.get("loss_weight_fn") or "CONSTANT"), document.get("loss_weight_strength") or 5.0
    if weight == "MIN_SNR_GAMMA":
        found.keys["min_snr_gamma"] = strength
    elif weight == "DEBIASED_ESTIMATION":
        found.keys["debiased_estimation_loss"] = True
    elif weight != "CONSTANT":
        found.lost.append(f"loss_weight_fn: {weight} has no counterpart.")
    low, high = document.get("min_noising_strength") or 0.0, document.get("max_noising_strength") or 1.0
    found.keys |= {"min_timestep": int(low * 1000), "max_timestep": int(high * 1000)}


def _concepts(document: Mapping[str, Any], here: Path, found: Converted) -> None:
    concepts = document.get("concepts")
    name = str(document.get("concept_file_name") or "")
    if not concepts and name:
        try:
            concepts = json.loads(read_text(here / name, 1024 * 1024))
        except (OSError, ValueError) as error:
            found.lost.append(f"concept_file_name: {name} cannot be read ({error}); name your folders yourself.")
    for concept in concepts if isinstance(concepts, list) else ():
        if isinstance(concept, Mapping) and concept.get("enabled", True):
            found.subsets.append(_subset(concept, document, found))
    if not found.subsets:
        found.keys["train_data_dir"] = "training_data"


def _subset(concept: Mapping[str, Any], document: Mapping[str, Any], found: Converted) -> dict[str, Any]:
    text = concept.get("text") if isinstance(concept.get("text"), Mapping) else {}
    image = concept.get("image") if isinstance(concept.get("image"), Mapping) else {}
    assert isinstance(text, Mapping) and isinstance(image, Mapping)
    subset: dict[str, Any] = {
        "image_dir": str(concept.get("path") or ""), "num_repeats": max(1, round(float(concept.get("balancing") or 1)))
    }  # fmt: skip
    if concept.get("balancing_strategy") == "SAMPLES":
        found.lost.append(f"balancing of {subset['image_dir']}: SAMPLES has no counterpart; num_repeats is 1.")
        subset["num_repeats"] = 1
    if concept.get("type") == "PRIOR_PREDICTION":
        subset["is_reg"] = True
    if text.get("enable_tag_shuffling"):
        subset |= {"shuffle_caption": True, "keep_tokens": text.get("keep_tags_count") or 0}
    if image.get("enable_random_flip"):
        subset["flip_aug"] = True
    if document.get("masked_training"):
        found.lost.append("masked_training: name the folder of masks as conditioning_data_dir of its subset.")
    source = str(text.get("prompt_source") or "sample")
    if source != "sample":
        found.lost.append(f"text.prompt_source of {subset['image_dir']}: {source}; captions are read beside pictures.")
    subset["caption_extension"] = ".txt"
    return subset
