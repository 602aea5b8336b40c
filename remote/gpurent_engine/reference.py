"""The reference of all keys as Markdown, generated for the documentation."""

from __future__ import annotations

from dataclasses import fields

from gpurent_engine import networkargs
from gpurent_engine.keys import (
    ALIASES,
    CHOICES,
    MEANING,
    NO_EFFECT,
    OPTIMISER_MODULES,
    REFUSED,
    TORCH_CURVES,
    ZERO_IS_UNSET,
)  # fmt: skip
from gpurent_engine.limits import INF, RANGES
from gpurent_engine.spec import TYPES, TrainSpec

OURS: dict[str, str] = {
    "learning_rate": "2e-6", "caption_extension": "`.caption`", "save_precision": "as trained, float", "seed": "random",
    "optimizer_type": "AdamW as well", "vae_batch_size": "1",
}  # fmt: skip
"""Defaults of kohya's that differ from ours."""
_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string"}
_ARGUMENTS = {
    "algo": "`lora`, `locon`, `loha` or `lokr`, for `lycoris.kohya`", "preset": ", ".join(networkargs.PRESETS),
    "conv_dim, conv_alpha": "rank and alpha in 3×3 convolutions; without them, kohya's networks leave resnets out",
    "dropout, rank_dropout, module_dropout": "shares from 0 to 1",
    "dora_wd, wd_on_output": "DoRA, and whether lengths are taken for each output", "factor, decompose_both": "of LoKr",
    "block_dims, block_alphas, conv_block_dims, conv_block_alphas": "25 numbers (SD 1.x, 2.x) or 23 (SDXL)",
    "loraplus_lr_ratio, loraplus_unet_lr_ratio, loraplus_text_encoder_lr_ratio": "LoRA+: rate of up matrices ÷ rate of "
    "down matrices; 16 is usual",
    "down_lr_weight, mid_lr_weight, up_lr_weight, block_lr_zero_threshold": "factors of the rate for each block, or a "
    "curve: `sine`, `cosine`, `linear`, `reverse_linear`, `zeros`, each also with `+0.25`",
}  # fmt: skip


def describe() -> str:
    """Every key, what it takes and what it means."""
    defaults = {one.name: one.default for one in fields(TrainSpec)}
    rows = [
        "# training_config.toml", "",
        "Generated from `gpurent_engine/spec.py`. The keys are those of kohya-ss/sd-scripts; tables such as `[model]`",
        "carry no meaning. Presets of kohya's GUI (JSON) and files of LoRA_Easy_Training_Scripts are read as well, and",
        "`gpurent init --from FILE` converts those of ai-toolkit and OneTrainer. A key that is not on this page is an",
        "error that names the nearest one.", "",
        "| key | value | default | meaning |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for key in TYPES:
        default = "required" if key == "pretrained_model_name_or_path" else _shown(defaults[key])
        rows.append(f"| `{key}` | {_expected(key)} | {default} | {MEANING[key]} |")
    rows += ["", "## Where our defaults differ from kohya's", ""]
    rows += [f"- `{key}`: {its} there" for key, its in OURS.items()]
    rows += ["", "## network_args", "", *(f"- `{key}`: {text}" for key, text in _ARGUMENTS.items())]
    rows += ["", "## Optimisers and curves of other libraries", ""]
    rows += [
        f"- `optimizer_type` may be a class by its dotted path, from {', '.join(f'`{m}`' for m in OPTIMISER_MODULES)}"
    ]
    rows += [f"- `lr_scheduler_type` may be {', '.join(f'`{name}`' for name in TORCH_CURVES)}"]
    rows += ["", "## Ranges", "", *(f"- `{key}`: {_range(key)}" for key in RANGES)]
    rows += ["", f"0 means *not set* for {', '.join(f'`{key}`' for key in sorted(ZERO_IS_UNSET))}."]
    rows += ["", "## Other spellings", "", *(f"- `{old}` means `{new}`" for old, new in ALIASES.items())]
    rows += [
        '- `use_8bit_adam` means `optimizer_type = "AdamW8bit"`, `use_lion_optimizer` means `"Lion"`',
        "- `epoch` means `max_train_epochs` where the length is not given otherwise",
    ]
    rows += ["", "## Accepted without effect (a warning says so)", ""]
    rows += [f"- `{key}`: {why}" for key, why in NO_EFFECT.items()]
    rows += ["", "## Refused when set", ""]
    for key, why in REFUSED.items():
        rows.append(f"- `{key}`: {why}")
    return "\n".join(rows) + "\n"


def _range(key: str) -> str:
    allowed = RANGES[key]
    return f"at least {allowed.least:g}" if allowed.most == INF else f"{allowed.least:g} to {allowed.most:g}"


def _expected(key: str) -> str:
    if key in CHOICES:
        return ", ".join(f"`{one}`" for one in CHOICES[key])
    if key == "resolution":
        return "a size"
    if key == "text_encoder_lr":
        return "a number or a list of them"
    if TYPES[key].startswith("tuple"):
        return "a list"
    kinds = [kind for kind in TYPES[key].split(" | ") if kind != "None"]
    return _NAMES[kinds[-1]]


def _shown(default: object) -> str:
    if default in ("", None, ()):
        return ""
    if isinstance(default, tuple):
        return f"`{default[0]}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
