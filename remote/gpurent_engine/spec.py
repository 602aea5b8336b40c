"""The training configuration: kohya's keys, read strictly. Torch-free; the client checks with this very module.

kohya-ss/sd-scripts (``train_network.py --config_file``) flattens the tables of its TOML, so section names carry no
meaning; so do we. Unlike kohya, an unknown key is an error and a key without effect here is a warning that says why.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gpurent_engine.filenames import good_name
from gpurent_engine.keys import ALIASES, CHOICES, DEFAULTS, MEANING, NO_EFFECT, REFUSED


class SpecError(Exception):
    """A key of the configuration is wrong; ``suggestion`` is the nearest valid spelling, or empty."""

    def __init__(self, key: str, message: str, suggestion: str = "") -> None:
        super().__init__(f"{key}: {message}" + (f" Did you mean {suggestion!r}?" if suggestion else ""))
        self.key = key
        self.message = message
        self.suggestion = suggestion


@dataclass(frozen=True)
class TrainSpec:
    """One LoRA training. Defaults are kohya's; ``keys.MEANING`` says where they are not."""

    pretrained_model_name_or_path: str
    v2: bool = False
    v_parameterization: bool = False
    zero_terminal_snr: bool = False
    train_data_dir: str = ""
    resolution: tuple[int, int] = (512, 512)
    train_batch_size: int = 1
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    caption_extension: str = ""
    shuffle_caption: bool = False
    keep_tokens: int = 0
    caption_prefix: str = ""
    caption_suffix: str = ""
    caption_dropout_rate: float = 0.0
    output_dir: str = "output"
    output_name: str = "last"
    max_train_epochs: int | None = None
    max_train_steps: int = 1600
    learning_rate: float = 1e-4
    unet_lr: float | None = None
    text_encoder_lr: tuple[float, ...] | None = None
    lr_scheduler: str = "constant"
    lr_scheduler_num_cycles: int = 1
    lr_scheduler_power: float = 1.0
    lr_warmup_steps: int | float = 0
    network_dim: int = 4
    network_alpha: float = 1.0
    network_train_unet_only: bool = False
    network_train_text_encoder_only: bool = False
    optimizer_type: str = "AdamW"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"
    save_precision: str = "fp16"
    save_every_n_epochs: int | None = None
    save_every_n_steps: int | None = None
    save_state_every_n_minutes: float = 0.0
    gradient_checkpointing: bool = False
    gradient_accumulation_steps: int = 1
    seed: int = 0
    clip_skip: int | None = None
    max_token_length: int | None = None
    sdxl_crop_coordinates: str = "actual"
    min_snr_gamma: float | None = None
    noise_offset: float = 0.0
    vae_batch_size: int = 4
    training_comment: str = ""
    metadata_title: str = ""
    metadata_author: str = ""
    metadata_description: str = ""
    metadata_license: str = ""
    metadata_tags: str = ""
    metadata_trigger_phrase: str = ""
    metadata_usage_hint: str = ""
    metadata_thumbnail: str = ""
    metadata_merged_from: str = ""
    metadata_preprocessor: str = ""
    metadata_is_negative_embedding: str = ""
    warnings: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    @property
    def text_chunks(self) -> int:
        """How many runs of the text encoder a caption may take, 75 tokens each."""
        return (self.max_token_length or 75) // 75

    @property
    def train_unet(self) -> bool:
        """Whether the UNet gets an optimiser group."""
        return not self.network_train_text_encoder_only and self.lr_of_unet > 0

    @property
    def train_text_encoder(self) -> bool:
        """Whether a text encoder gets an optimiser group."""
        return not self.network_train_unet_only and max(self.lr_of_text_encoder(0), self.lr_of_text_encoder(1)) > 0

    @property
    def lr_of_unet(self) -> float:
        """``unet_lr``, else ``learning_rate``."""
        return self.learning_rate if self.unet_lr is None else self.unet_lr

    def lr_of_text_encoder(self, index: int = 0) -> float:
        """``text_encoder_lr``, else ``learning_rate``; one number is for all encoders, a list has one for each."""
        if self.text_encoder_lr is None:
            return self.learning_rate
        return self.text_encoder_lr[min(index, len(self.text_encoder_lr) - 1)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainSpec:
        """Read ``to_dict``'s output; raises SpecError on unknown or missing keys."""
        unknown = set(data) - set(TYPES) - {"warnings"}
        if unknown:
            raise SpecError(
                sorted(unknown)[0], "this engine does not know the key; client and engine differ in version."
            )
        values = dict(data)
        if not values.get("pretrained_model_name_or_path"):
            raise SpecError("pretrained_model_name_or_path", "is missing.")
        values["resolution"] = tuple(values.get("resolution", (512, 512)))
        if values.get("text_encoder_lr") is not None:
            values["text_encoder_lr"] = tuple(values["text_encoder_lr"])
        values["warnings"] = tuple((str(key), str(text)) for key, text in values.get("warnings", ()))
        return cls(**values)


TYPES: dict[str, str] = {one.name: str(one.type) for one in fields(TrainSpec) if one.name != "warnings"}
_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string"}


def load_spec(path: Path) -> TrainSpec:
    """Read a ``training_config.toml`` (or ``.json``).

    Raises:
        SpecError: a key is unknown, of the wrong type or refused; the file is no TOML.
        OSError: the file cannot be read.
    """
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(path.name, f"is no valid JSON: {error}.") from error
        if not isinstance(document, dict):
            raise SpecError(path.name, "must hold a JSON object.")
        return parse_spec(document)
    return parse_spec(read_toml(path.name, text))


def read_toml(name: str, text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        SpecError: it is none, or this Python (3.10) cannot read TOML.
    """
    try:
        tomllib = importlib.import_module("tomllib")
    except ImportError as error:
        raise SpecError(name, "reading TOML needs Python 3.11 or newer; pass it as .json.") from error
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(name, f"is no valid TOML: {error}.") from error
    return document


def parse_spec(document: Mapping[str, Any]) -> TrainSpec:
    """Check a configuration as read from TOML; tables are flattened one level, later tables win.

    Raises:
        SpecError: naming the key, what was expected and the nearest known spelling.
    """
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat.update(value if isinstance(value, Mapping) else {key: value})
    values: dict[str, Any] = {}
    warnings: list[tuple[str, str]] = []
    for given, value in flat.items():
        key = ALIASES.get(given, given)
        if key in NO_EFFECT:
            warnings.append((given, f"{given} has no effect here: {NO_EFFECT[key]}."))
        elif key in REFUSED:
            if value not in (None, False, 0, "", []) and value != DEFAULTS.get(key):
                raise SpecError(given, f"is not supported: {REFUSED[key]}.")
        elif key in TYPES:
            values[key] = _typed(given, key, value)
        else:
            raise SpecError(given, "is not a known key.", _nearest(given))
    if not values.get("pretrained_model_name_or_path"):
        raise SpecError(
            "pretrained_model_name_or_path", "is missing: a diffusers folder, a .safetensors file or a hub id."
        )
    return _consistent(TrainSpec(**values, warnings=tuple(warnings)))


def _nearest(key: str) -> str:
    known = [*TYPES, *ALIASES, *NO_EFFECT, *REFUSED]
    return next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.6)), "")


def _typed(given: str, key: str, value: Any) -> Any:
    if key == "resolution":
        return _resolution(given, value)
    if key in CHOICES:
        return _choice(given, CHOICES[key], value)
    if key == "text_encoder_lr":
        return _rates(given, value)
    kinds = TYPES[key].replace(" | None", "").split(" | ")
    wanted = "float" if "float" in kinds and kinds != ["int", "float"] else kinds[0]
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kinds == ["int", "float"] and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if type(value).__name__ != wanted:
        raise SpecError(given, f"must be {_NAMES[wanted]}, not {value!r}.")
    return value


def _choice(given: str, allowed: tuple[str, ...], value: Any) -> str:
    if not isinstance(value, str):
        raise SpecError(given, f"must be one of {', '.join(allowed)}, not {value!r}.")
    for one in allowed:
        if one.lower() == value.lower():
            return one
    close = difflib.get_close_matches(value, allowed, n=1)
    raise SpecError(given, f"must be one of {', '.join(allowed)}, not {value!r}.", close[0] if close else "")


def _resolution(given: str, value: Any) -> tuple[int, int]:
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        numbers = [int(str(part)) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or any(isinstance(part, bool) for part in parts) or min(numbers) < 16:
        raise SpecError(given, f'must be a size such as 512 or "512,768", not {value!r}.')
    return numbers[0], numbers[-1]


def _rates(given: str, value: Any) -> tuple[float, ...]:
    """kohya's key takes a number, or a list with one for each text encoder."""
    found: list[Any] = value if isinstance(value, list) and value else [value]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in found) or len(found) > 2:
        raise SpecError(given, f"must be a number, or a list with one for each text encoder, not {value!r}.")
    return tuple(float(one) for one in found)


def _consistent(spec: TrainSpec) -> TrainSpec:
    for key in (
        "train_batch_size",
        "network_dim",
        "gradient_accumulation_steps",
        "vae_batch_size",
        "bucket_reso_steps",
    ):
        if getattr(spec, key) < 1:
            raise SpecError(key, "must be at least 1.")
    for key in ("max_train_epochs", "save_every_n_epochs", "save_every_n_steps", "clip_skip"):
        if getattr(spec, key) is not None and getattr(spec, key) < 1:
            raise SpecError(key, "must be at least 1.")
    for key in (
        "learning_rate",
        "unet_lr",
        "text_encoder_lr",
        "network_alpha",
        "max_grad_norm",
        "noise_offset",
        "save_state_every_n_minutes",
    ):
        numbers = getattr(spec, key)
        for number in numbers if isinstance(numbers, tuple) else (numbers,):
            if number is not None and not 0 <= number < float("inf"):
                raise SpecError(key, "must be a finite number that is not negative.")
    if spec.lr_warmup_steps < 0:
        raise SpecError("lr_warmup_steps", "must not be negative.")
    if spec.lr_scheduler == "constant" and spec.lr_warmup_steps:
        raise SpecError("lr_scheduler", "constant has no warm-up.", "constant_with_warmup")
    if spec.max_train_epochs is None and spec.max_train_steps < 1:
        raise SpecError("max_train_steps", "must be at least 1.")
    if not 0 <= spec.caption_dropout_rate <= 1:
        raise SpecError("caption_dropout_rate", "must lie between 0 and 1.")
    if spec.max_token_length not in (None, 75, 150, 225):
        raise SpecError("max_token_length", f"must be 75, 150 or 225, not {spec.max_token_length}.")
    if spec.min_bucket_reso > spec.max_bucket_reso:
        raise SpecError("min_bucket_reso", "must not exceed max_bucket_reso.")
    if not (spec.train_unet or spec.train_text_encoder):
        raise SpecError("learning_rate", "nothing would be trained: every part has learning rate 0 or is switched off.")
    if not good_name(spec.output_name):
        raise SpecError("output_name", "must be a plain file name without folders.")
    return spec


def describe() -> str:
    """Reference of all keys as Markdown, generated for the documentation."""
    defaults = {one.name: one.default for one in fields(TrainSpec)}
    rows = [
        "# training_config.toml", "",
        "Generated from `gpurent_engine/spec.py`. The keys are those of kohya-ss/sd-scripts; tables such as `[model]`",
        "carry no meaning. A key that is not on this page is an error that names the nearest one.", "",
        "| key | value | default | meaning |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for key in TYPES:
        default = "required" if key == "pretrained_model_name_or_path" else _shown(defaults[key])
        rows.append(f"| `{key}` | {_expected(key)} | {default} | {MEANING[key]} |")
    rows += ["", "## Other spellings", "", *(f"- `{old}` means `{new}`" for old, new in ALIASES.items())]
    rows += ["", "## Accepted without effect (a warning says so)", ""]
    rows += [f"- `{key}`: {why}" for key, why in NO_EFFECT.items()]
    rows += ["", "## Refused when set", ""]
    for key, why in REFUSED.items():
        rows.append(f"- `{key}`: {why}" + (f" (`{DEFAULTS[key]!r}` is fine)" if DEFAULTS.get(key) else ""))
    return "\n".join(rows) + "\n"


def _expected(key: str) -> str:
    if key in CHOICES:
        return ", ".join(f"`{one}`" for one in CHOICES[key])
    if key == "resolution":
        return "a size"
    if key == "text_encoder_lr":
        return "a number or a list of them"
    kinds = [kind for kind in TYPES[key].split(" | ") if kind != "None"]
    return _NAMES[kinds[-1]]


def _shown(default: object) -> str:
    if default in ("", None):
        return ""
    if isinstance(default, tuple):
        return f"`{default[0]}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
