"""The JSON presets of kohya's GUI (bmaltais/kohya_ss): its own names, numbers as text, 0 for what is off.

Source: kohya_ss ``kohya_gui/lora_gui.py``, which turns these very fields into the trainer's TOML.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from gpurent_engine.spec import TYPES, SpecError

_MARKS = ("max_resolution", "LoRA_type", "train_on_input", "lr_warmup", "num_cpu_threads_per_process")
RENAMED = {
    "max_resolution": "resolution", "optimizer": "optimizer_type", "lora_network_weights": "network_weights",
    "model_list": "", "reg_data_dir": "reg_data_dir", "train_dir": "train_data_dir", "image_folder": "train_data_dir",
}  # fmt: skip
KINDS = {
    "Standard": ("networks.lora", ""), "Kohya LoCon": ("networks.lora", ""), "LoCon": ("networks.lora", ""),
    "LyCORIS/LoCon": ("lycoris.kohya", "locon"), "LyCORIS/LoHa": ("lycoris.kohya", "loha"),
    "LyCORIS/LoKr": ("lycoris.kohya", "lokr"), "Kohya LoHa": ("networks.loha", ""), "Kohya LoKr": ("networks.lokr", ""),
}  # fmt: skip
"""LoRA_type: the trainer's network_module, and LyCORIS' algo."""
_BLOCKS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold")
_BLOCK_DIMS = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")
_ZERO_IS_OFF = frozenset((
    "adaptive_noise_scale", "clip_skip", "ip_noise_gamma", "max_timestep", "max_train_epochs", "max_train_steps",
    "min_snr_gamma", "min_timestep", "multires_noise_iterations", "noise_offset", "save_every_n_epochs",
    "save_every_n_steps", "seed", "unet_lr", "text_encoder_lr", "v_pred_like_loss", "vae_batch_size",
    "scale_weight_norms", "network_dropout",
))  # fmt: skip
_IDLE = frozenset((
    "num_cpu_threads_per_process", "num_processes", "num_machines", "multi_gpu", "gpu_ids", "main_process_port",
    "no_token_padding", "stop_text_encoder_training_pct", "train_on_input", "unit", "model_list", "sdxl",
    "sdxl_no_half_vae", "sdxl_cache_text_encoder_outputs", "save_as_bool", "headless", "extra_accelerate_launch_args",
    "extra_accelerate_args", "use_wandb", "caption_metadata_filename", "lycoris_preset", "LyCORIS_preset", "use_cp",
    "use_tucker", "use_scalar", "rank_dropout_scale", "bypass_mode", "train_norm", "constrain", "rescaled", "dora_wd",
    "decompose_both", "factor", "conv_dim", "conv_alpha", "conv_dims", "conv_alphas", "rank_dropout", "module_dropout",
    "noise_offset_type", "additional_parameters", "LoRA_type", "lr_warmup", "loraplus_lr_ratio",
    "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio", *_BLOCKS, *_BLOCK_DIMS, "dynamo_mode",
    "dynamo_use_fullgraph", "dynamo_use_dynamic", "lowvram", "train_inpainting", "enable_all_linear",
    "ggpo_beta", "ggpo_sigma",
    "train_lora_ggpo", "t5xxl_lr", "lr_scheduler_type", "network_args",
))  # fmt: skip
"""Fields that are read together with others, or mean nothing outside of the GUI."""


_FAMILIES = {
    "flux1_": "Flux", "sd3_": "Stable Diffusion 3", "hunyuan_": "HunyuanImage", "lumina_": "Lumina", "anima_": "Anima",
}  # fmt: skip
"""Fields of other families by how they begin; a box ``…checkbox`` says that the preset is for one."""


def is_gui(document: Mapping[str, Any]) -> bool:
    """Whether this is a preset of the GUI, and not the TOML that it writes for the trainer."""
    return sum(one in document for one in _MARKS) >= 2


def convert(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """kohya's keys, and notes for the user.

    Raises:
        SpecError: it is for a kind of network, or a family of models, that is not trained here.
    """
    for prefix, family in _FAMILIES.items():
        if any(key.startswith(prefix) and key.endswith("checkbox") and value for key, value in document.items()):
            raise SpecError("LoRA_type", f"the preset is for {family}, which is not trained here.")
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key.startswith(tuple(_FAMILIES)):
            continue
        name = RENAMED.get(key, key)
        if key in _IDLE or not name or value in (None, ""):
            continue
        if name in _ZERO_IS_OFF and _is_zero(value):
            continue
        flat[name] = _number(name, value)
    flat["network_module"], arguments = _network(document)
    flat["network_args"] = [*arguments, *_words(document.get("network_args", ""))]
    _noise(document, flat)
    _length(document, flat)
    for key in ("optimizer_args", "lr_scheduler_args"):
        if key in flat:
            flat[key] = _words(flat[key])
    if document.get("lr_scheduler_type"):
        flat["lr_scheduler_type"] = document["lr_scheduler_type"]
    notes = [("LoRA_type", f"read as a preset of kohya's GUI: {document.get('LoRA_type', 'Standard')}.")]
    return {**flat, **_more(document, notes)}, notes


def _is_zero(value: Any) -> bool:
    try:
        return float(value) == 0
    except (TypeError, ValueError):
        return False


def _number(name: str, value: Any) -> Any:
    """The GUI writes many numbers as text."""
    kind = TYPES.get(name, "str").replace(" | None", "")
    if not isinstance(value, str) or kind in ("str", "bool") or name == "resolution":
        return value
    try:
        if kind.startswith("tuple[float"):
            return [float(one) for one in value.replace(",", " ").split()]
        return (
            int(value)
            if kind == "int" and "." not in value
            else float(value)
            if "float" in kind or kind == "int"
            else value
        )
    except ValueError:
        return value


def _network(document: Mapping[str, Any]) -> tuple[str, list[str]]:
    kind = str(document.get("LoRA_type") or "Standard")
    if kind not in KINDS:
        raise SpecError("LoRA_type", f"{kind} is not trained here; {', '.join(KINDS)} are.")
    module, algo = KINDS[kind]
    arguments = []
    if module == "lycoris.kohya":
        preset = document.get("LyCORIS_preset") or document.get("lycoris_preset") or "full"
        arguments = [f"algo={algo}", f"preset={preset}"]
        arguments += [
            f"{one}={document[one]}" for one in ("conv_dim", "conv_alpha") if document.get(one) not in (None, "")
        ]
        flags = ("use_tucker", "use_scalar", "train_norm", "dora_wd", "rank_dropout_scale")
        arguments += [f"{one}={document[one]}" for one in flags if document.get(one)]
        if algo == "lokr":
            arguments += [
                f"{one}={document[one]}" for one in ("factor", "decompose_both", "use_cp") if document.get(one)
            ]
    elif kind in ("Kohya LoCon", "LoCon"):
        arguments = [
            f"{one}={document[one]}" for one in ("conv_dim", "conv_alpha") if document.get(one) not in (None, "")
        ]
    if algo in ("", "locon"):
        plus = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
        arguments += [f"{one}={document[one]}" for one in plus if not _is_zero(document.get(one) or 0)]
    if module == "networks.lora":
        arguments += [f"{one}={document[one]}" for one in (*_BLOCKS, *_BLOCK_DIMS) if document.get(one)]
    drops = ("rank_dropout", "module_dropout")
    arguments += [f"{one}={document[one]}" for one in drops if not _is_zero(document.get(one) or 0)]
    return module, arguments


def _noise(document: Mapping[str, Any], flat: dict[str, Any]) -> None:
    """Of the two kinds of noise the GUI passes on the chosen one only."""
    multires = str(document.get("noise_offset_type", "Original")) == "Multires"
    dropped = ("noise_offset", "adaptive_noise_scale", "noise_offset_random_strength")
    for key in dropped if multires else ("multires_noise_iterations", "multires_noise_discount"):
        flat.pop(key, None)


def _length(document: Mapping[str, Any], flat: dict[str, Any]) -> None:
    epochs = flat.pop("epoch", None)
    if "max_train_epochs" not in flat and "max_train_steps" not in flat and epochs:
        flat["max_train_epochs"] = int(float(epochs))
    if "lr_scheduler_num_cycles" not in flat and epochs:
        flat["lr_scheduler_num_cycles"] = int(float(epochs))
    warm = document.get("lr_warmup")  # percent of the run
    if warm and not _is_zero(warm) and "lr_warmup_steps" not in flat:
        flat["lr_warmup_steps"] = float(warm) / 100
    if _is_zero(flat.get("lr_warmup_steps", 1)):
        flat.pop("lr_warmup_steps")
    if flat.get("lr_scheduler") == "constant" and "lr_warmup_steps" in flat:
        flat.pop("lr_warmup_steps")  # the GUI passes none on


def _words(value: Any) -> list[str]:
    if not isinstance(value, str):
        return [str(one) for one in value or ()]
    return [one.strip(",") for one in value.replace('"', "").split() if one.strip(",")]


def _more(document: Mapping[str, Any], notes: list[tuple[str, str]]) -> dict[str, Any]:
    """``additional_parameters``: options as on the trainer's command line."""
    found: dict[str, Any] = {}
    name = ""
    try:
        words = shlex.split(str(document.get("additional_parameters") or ""))
    except ValueError as error:
        raise SpecError("additional_parameters", f"cannot be read: {error}.") from error
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = _literal(name, value) if equals else True
        elif name:
            before = found[name]
            fresh = _literal(name, word)
            found[name] = fresh if before is True else [*(before if isinstance(before, list) else [before]), fresh]
    if found:
        notes.append(("additional_parameters", f"additional_parameters are read: {', '.join(found)}."))
    return found


def _literal(name: str, text: str) -> Any:
    value = _number(name, text)
    return value[0] if isinstance(value, list) and len(value) == 1 else value
