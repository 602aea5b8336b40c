"""ai-toolkit's YAML: names and defaults of ostris/ai-toolkit ``toolkit/config_modules.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpurent.convert import Converted
from gpurent.errors import ConfigError

_OPTIMISERS = {
    "adamw": "AdamW", "adamw8bit": "AdamW8bit", "adam": "AdamW", "adam8bit": "AdamW8bit", "prodigy": "Prodigy",
    "prodigy8bit": "Prodigy", "lion": "Lion", "lion8bit": "Lion8bit", "adafactor": "Adafactor",
    "dadaptation": "DAdaptation",
}  # fmt: skip
_SCHEDULES = {
    "constant": "constant", "constant_with_warmup": "constant_with_warmup", "linear": "linear", "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts", "polynomial": "polynomial",
}  # fmt: skip
_PRECISION = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "fp32": "no", "float32": "no"}
_TRAIN = frozenset((
    "steps", "lr", "unet_lr", "text_encoder_lr", "optimizer", "optimizer_params", "lr_scheduler", "lr_scheduler_params",
    "batch_size", "gradient_accumulation", "gradient_accumulation_steps", "gradient_checkpointing", "train_unet",
    "train_text_encoder", "min_snr_gamma", "snr_gamma", "noise_offset", "dtype", "max_grad_norm", "noise_scheduler",
    "min_denoising_steps", "max_denoising_steps", "disable_sampling", "skip_first_sample",
))  # fmt: skip
_DATASET = frozenset((
    "folder_path", "dataset_path", "caption_ext", "num_repeats", "resolution", "flip_x", "shuffle_tokens",
    "keep_tokens", "token_dropout_rate", "caption_dropout_rate", "is_reg", "mask_path", "alpha_mask", "trigger_word",
    "default_caption", "cache_latents", "cache_latents_to_disk", "buckets", "bucket_tolerance", "type",
))  # fmt: skip
_IDLE = frozenset(("sample", "logging", "device", "performance_log_every", "training_folder", "type", "sqlite_db_path"))


def convert(document: Mapping[str, Any]) -> Converted:
    """Turn the first process of a job into kohya's keys.

    Raises:
        ConfigError: it does not train a LoRA of a family that is trained here.
    """
    config = _table(document, "config")
    processes = config.get("process")
    if not isinstance(processes, list) or not processes or not isinstance(processes[0], Mapping):
        raise ConfigError("config.process holds no training.", hint="Name a job of ai-toolkit that trains a LoRA.")
    found, process = Converted("ai-toolkit"), processes[0]
    if len(processes) > 1:
        found.lost.append(f"{len(processes) - 1} further processes: only the first is converted.")
    name = str(config.get("name") or "lora")
    found.keys["output_name"] = "".join("_" if one in '/\\:*?"<>|' else one for one in name)
    _model(_table(process, "model"), found)
    _network(_table(process, "network"), found)
    _train(_table(process, "train"), found)
    _save(_table(process, "save"), found)
    trigger = str(process.get("trigger_word") or "")
    sizes: list[Any] = []
    for dataset in process.get("datasets") or ():
        found.subsets.append(_subset(dataset, trigger, sizes, found))
    sizes = sorted(set(sizes)) or [512]
    if len(sizes) > 1:
        found.lost.append(f"datasets.resolution: of {', '.join(map(str, sizes))} only {sizes[-1]} is trained.")
    found.keys |= {"resolution": sizes[-1], "enable_bucket": True, "bucket_reso_steps": 64, "bucket_no_upscale": True}
    known = {"model", "network", "train", "save", "datasets", "trigger_word"} | _IDLE
    found.lost += [f"{key}: it has no counterpart." for key in process if key not in known]
    return found


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    return found if isinstance(found, Mapping) else {}


def _model(model: Mapping[str, Any], found: Converted) -> None:
    family = str(model.get("arch") or "")
    other = next((key for key in ("is_flux", "is_v3", "is_auraflow", "is_lumina2", "is_pixart") if model.get(key)), "")
    if other or family not in ("", "sd1", "sd15", "sd2", "sdxl"):
        raise ConfigError(
            f"The job trains {family or other.removeprefix('is_')}.",
            hint="Stable Diffusion 1.x, 2.x and XL can be trained here.",
        )
    found.keys["pretrained_model_name_or_path"] = str(model.get("name_or_path") or "")
    found.keys["v2"] = bool(model.get("is_v2"))
    found.keys["v_parameterization"] = bool(model.get("is_v_pred"))
    if model.get("vae_path"):
        found.keys["vae"] = str(model["vae_path"])
    known = ("name_or_path", "arch", "is_xl", "is_v2", "is_v_pred", "vae_path", "quantize", "quantize_te", "low_vram")
    found.lost += [f"model.{key}: it has no counterpart." for key, given in model.items() if key not in known and given]


def _network(network: Mapping[str, Any], found: Converted) -> None:
    kind = str(network.get("type") or "lora").lower()
    if kind not in ("lora", "locon", "lokr"):
        raise ConfigError(f"The job trains a network of type {kind}.", hint="lora, locon and lokr can be trained here.")
    rank = network.get("linear", network.get("rank", 4))
    found.keys |= {"network_dim": rank, "network_alpha": network.get("linear_alpha", network.get("alpha", rank))}
    arguments = []
    if network.get("conv"):
        arguments = [f"conv_dim={network['conv']}", f"conv_alpha={network.get('conv_alpha', network['conv'])}"]
    if kind == "lokr":
        found.keys["network_module"] = "networks.lokr"
        arguments.append(f"factor={network.get('lokr_factor', -1)}")
    if arguments:
        found.keys["network_args"] = arguments
    if network.get("dropout"):
        found.keys["network_dropout"] = network["dropout"]
    known = ("type", "linear", "rank", "linear_alpha", "alpha", "conv", "conv_alpha", "dropout", "lokr_factor",
             "lokr_full_rank")  # fmt: skip
    found.lost += [
        f"network.{key}: it has no counterpart." for key, given in network.items() if key not in known and given
    ]


def _train(train: Mapping[str, Any], found: Converted) -> None:
    keys = found.keys
    rate = train.get("lr", 1e-4)
    keys |= {
        "max_train_steps": train.get("steps", 1000), "learning_rate": rate, "unet_lr": train.get("unet_lr", rate),
        "train_batch_size": train.get("batch_size", 1),
        "gradient_accumulation_steps": train.get("gradient_accumulation_steps", train.get("gradient_accumulation", 1)),
        "gradient_checkpointing": bool(train.get("gradient_checkpointing", True)),
        "max_grad_norm": train.get("max_grad_norm", 1.0), "noise_offset": train.get("noise_offset", 0.0),
        "mixed_precision": _PRECISION.get(str(train.get("dtype", "bf16")), "bf16"),
    }  # fmt: skip
    if train.get("train_text_encoder"):
        keys["text_encoder_lr"] = train.get("text_encoder_lr", rate)
    else:
        keys["network_train_unet_only"] = True
    for name in ("min_snr_gamma", "snr_gamma"):
        if train.get(name):
            keys["min_snr_gamma"] = train[name]
    for name, key, ours in (("optimizer", "optimizer_type", _OPTIMISERS), ("lr_scheduler", "lr_scheduler", _SCHEDULES)):
        given = str(train.get(name) or "").lower()
        if given and given not in ours:
            found.lost.append(f"train.{name}: {given} is not known here; {keys.get(key, 'the default')} is used.")
        elif given:
            keys[key] = ours[given]
    parameters = train.get("optimizer_params")
    if isinstance(parameters, Mapping):
        keys["optimizer_args"] = [f"{name}={parameter}" for name, parameter in parameters.items()]
    found.lost += [
        f"train.{key}: it has no counterpart." for key, given in train.items() if key not in _TRAIN and given
    ]


def _save(save: Mapping[str, Any], found: Converted) -> None:
    found.keys["save_every_n_steps"] = save.get("save_every", 1000)
    found.keys["save_precision"] = {"no": "float"}.get(
        _PRECISION.get(str(save.get("dtype", "fp16")), "fp16"), _PRECISION.get(str(save.get("dtype", "fp16")), "fp16")
    )


def _subset(dataset: Any, trigger: str, sizes: list[Any], found: Converted) -> dict[str, Any]:
    if not isinstance(dataset, Mapping):
        raise ConfigError("datasets must be a list of tables.", hint="See ai-toolkit's examples.")
    size = dataset.get("resolution", 512)
    sizes += size if isinstance(size, list) else [size]
    extension = str(dataset.get("caption_ext") or "txt")
    subset: dict[str, Any] = {
        "image_dir": str(dataset.get("folder_path") or dataset.get("dataset_path") or ""),
        "num_repeats": dataset.get("num_repeats", 1), "caption_extension": f".{extension.lstrip('.')}",
    }  # fmt: skip
    word = str(dataset.get("trigger_word") or trigger)
    default = str(dataset.get("default_caption") or word)
    renamed = {"flip_x": "flip_aug", "shuffle_tokens": "shuffle_caption", "keep_tokens": "keep_tokens",
               "token_dropout_rate": "caption_tag_dropout_rate", "caption_dropout_rate": "caption_dropout_rate",
               "is_reg": "is_reg", "mask_path": "conditioning_data_dir", "alpha_mask": "alpha_mask"}  # fmt: skip
    subset |= {ours: dataset[theirs] for theirs, ours in renamed.items() if dataset.get(theirs)}
    if default:
        subset["class_tokens"] = default.replace("[trigger]", word)
    lost = [key for key, given in dataset.items() if key not in _DATASET and given]
    found.lost += [f"datasets.{key}: it has no counterpart." for key in lost]
    if word:
        found.lost.append(f"trigger_word: write {word!r} into the captions; [trigger] in them is not replaced.")
    return subset
