"""One LoRA training as a value: kohya's keys with their types and defaults. ``reading`` makes it from a file.

Torch-free; the client plans with this very class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any


class SpecError(Exception):
    """A key of the configuration is wrong; ``suggestion`` is the nearest valid spelling, or empty.

    ``others`` are the further errors of the same configuration, most important first.
    """

    def __init__(self, key: str, message: str, suggestion: str = "", others: tuple[SpecError, ...] = ()) -> None:
        super().__init__(f"{key}: {message}" + (f" Did you mean {suggestion!r}?" if suggestion else ""))
        self.key = key
        self.message = message
        self.suggestion = suggestion
        self.others = others


def problem(act: Callable[[], object]) -> SpecError | None:
    """The error that ``act`` raises, if any: for those who gather all of them."""
    try:
        act()
    except SpecError as error:
        return error
    return None


def together(errors: Sequence[SpecError]) -> SpecError:
    """The first error, with the others in it."""
    first = errors[0]
    return SpecError(first.key, first.message, first.suggestion, tuple(errors[1:]))


@dataclass(frozen=True)
class Subset:
    """One folder of pictures, as a dataset configuration describes it."""

    folder: str
    """Where it is: absolute, or below the dataset's root."""
    name: str
    """What the metadata calls it."""
    repeats: int = 1
    concept: str = ""
    """Caption of pictures that have none (``class_tokens``)."""
    regular: bool = False
    """Regularisation images: what the model knows already and shall not forget."""
    group: int = 0
    """Which ``[[datasets]]`` it belongs to; pictures of different ones are never in one batch."""
    mask_folder: str = ""
    """Masks of the same stems (``conditioning_data_dir``)."""
    metadata_file: str = ""
    """JSON with captions by picture, instead of files beside them."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Fields of ``TrainSpec`` that are different here."""


@dataclass(frozen=True)
class Sample:
    """A picture to draw on the way, as a line of kohya's prompt file asks for it."""

    prompt: str
    negative: str = ""
    width: int = 512
    height: int = 512
    seed: int = 0
    steps: int = 30
    guidance: float = 7.5
    sampler: str = "ddim"


@dataclass(frozen=True)
class TrainSpec:
    """One LoRA training. Defaults are kohya's; ``keys.MEANING`` says where they are not."""

    pretrained_model_name_or_path: str
    vae: str = ""
    v2: bool = False
    v_parameterization: bool = False
    zero_terminal_snr: bool = False
    train_data_dir: str = ""
    reg_data_dir: str = ""
    in_json: str = ""
    dataset_repeats: int = 1
    dataset_config: str = ""
    resolution: tuple[int, int] = (512, 512)
    resize_interpolation: str = ""
    train_batch_size: int = 1
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    flip_aug: bool = False
    color_aug: bool = False
    random_crop: bool = False
    face_crop_aug_range: tuple[float, ...] = ()
    caption_extension: str = ""
    caption_separator: str = ","
    shuffle_caption: bool = False
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    secondary_separator: str = ""
    enable_wildcard: bool = False
    caption_prefix: str = ""
    caption_suffix: str = ""
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0
    token_warmup_min: int = 1
    token_warmup_step: float = 0.0
    weighted_captions: bool = False
    output_dir: str = "output"
    output_name: str = "last"
    max_train_epochs: int | None = None
    max_train_steps: int = 1600
    initial_epoch: int | None = None
    initial_step: int | None = None
    learning_rate: float = 1e-4
    unet_lr: float | None = None
    text_encoder_lr: tuple[float, ...] | None = None
    lr_scheduler: str = "constant"
    lr_scheduler_type: str = ""
    lr_scheduler_args: tuple[str, ...] = ()
    lr_scheduler_num_cycles: int = 1
    lr_scheduler_power: float = 1.0
    lr_scheduler_timescale: int | None = None
    lr_scheduler_min_lr_ratio: float | None = None
    lr_warmup_steps: int | float = 0
    lr_decay_steps: int | float = 0
    network_module: str = "networks.lora"
    network_dim: int = 4
    network_alpha: float = 1.0
    network_args: tuple[str, ...] = ()
    network_dropout: float = 0.0
    network_weights: str = ""
    dim_from_weights: bool = False
    base_weights: tuple[str, ...] = ()
    base_weights_multiplier: tuple[float, ...] = ()
    scale_weight_norms: float = 0.0
    network_train_unet_only: bool = False
    network_train_text_encoder_only: bool = False
    optimizer_type: str = "AdamW"
    optimizer_args: tuple[str, ...] = ()
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
    debiased_estimation_loss: bool = False
    scale_v_pred_loss_like_noise_pred: bool = False
    v_pred_like_loss: float = 0.0
    loss_type: str = "l2"
    huber_schedule: str = "snr"
    huber_c: float = 0.1
    huber_scale: float = 1.0
    prior_loss_weight: float = 1.0
    masked_loss: bool = False
    alpha_mask: bool = False
    conditioning_data_dir: str = ""
    min_timestep: int = 0
    max_timestep: int = 1000
    noise_offset: float = 0.0
    noise_offset_random_strength: bool = False
    adaptive_noise_scale: float = 0.0
    multires_noise_iterations: int = 0
    multires_noise_discount: float = 0.3
    ip_noise_gamma: float = 0.0
    ip_noise_gamma_random_strength: bool = False
    validation_split: float = 0.0
    validation_seed: int | None = None
    validate_every_n_steps: int | None = None
    validate_every_n_epochs: int | None = None
    max_validation_steps: int | None = None
    early_stopping_patience: int | None = None
    early_stopping_threshold: float = 0.0
    sample_prompts: str = ""
    sample_every_n_epochs: int | None = None
    sample_every_n_steps: int | None = None
    sample_at_first: bool = False
    sample_sampler: str = "ddim"
    logging_dir: str = ""
    log_with: str = ""
    log_prefix: str = ""
    log_tracker_name: str = ""
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
    subsets: tuple[Subset, ...] = ()
    """The folders of the dataset where a dataset configuration names them; else they are found by their names."""
    samples: tuple[Sample, ...] = ()
    """What ``sample_prompts`` says, once it is read."""
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

    @property
    def masks(self) -> bool:
        """Whether parts of pictures count less than others in the loss."""
        return self.alpha_mask or self.masked_loss or any(dict(one.settings).get("alpha_mask") for one in self.subsets)

    def of(self, settings: tuple[tuple[str, Any], ...]) -> TrainSpec:
        """This training as it is for the pictures of one subset."""
        return _changed(self, settings) if settings else self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainSpec:
        """Read ``to_dict``'s output; raises SpecError on unknown or missing keys."""
        unknown = set(data) - set(TYPES) - APART
        if unknown:
            raise SpecError(
                sorted(unknown)[0], "this engine does not know the key; client and engine differ in version."
            )
        values = dict(data)
        if not values.get("pretrained_model_name_or_path"):
            raise SpecError("pretrained_model_name_or_path", "is missing.")
        for key in TUPLES & set(values):
            values[key] = None if values[key] is None else tuple(values[key])
        values["warnings"] = tuple((str(key), str(text)) for key, text in values.get("warnings", ()))
        values["subsets"] = tuple(_subset(one) for one in values.get("subsets", ()))
        try:
            values["samples"] = tuple(Sample(**one) for one in values.get("samples", ()))
        except TypeError as error:
            raise SpecError("samples", "client and engine differ in version.") from error
        return cls(**values)


def _subset(data: Mapping[str, Any]) -> Subset:
    settings = tuple((str(key), tuple(one) if key in TUPLES else one) for key, one in data.get("settings", ()))
    try:
        return Subset(**{**data, "settings": settings})
    except TypeError as error:
        raise SpecError("subsets", "client and engine differ in version.") from error


@lru_cache(maxsize=256)
def _changed(spec: TrainSpec, settings: tuple[tuple[str, Any], ...]) -> TrainSpec:
    changes: dict[str, Any] = dict(settings)
    return replace(spec, **changes)


def parse_spec(document: Mapping[str, Any]) -> TrainSpec:
    """``reading.parse_spec``, where earlier versions had it."""
    from gpurent_engine.reading import parse_spec

    return parse_spec(document)


APART = frozenset(("warnings", "subsets", "samples"))
"""Fields that are no keys of a configuration."""
TYPES: dict[str, str] = {one.name: str(one.type) for one in fields(TrainSpec) if one.name not in APART}
TUPLES = frozenset(name for name, kind in TYPES.items() if kind.startswith("tuple["))
