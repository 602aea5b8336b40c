"""What values a configuration may have, alone and together: one table for the client and the engine. Torch-free."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass

from gpurent_engine import networkargs
from gpurent_engine.filenames import good_name
from gpurent_engine.spec import SpecError, TrainSpec, problem

INF = math.inf
ADAPTIVE = ("prodigy", "dadapt")
"""Optimisers that find the rate themselves; theirs is a factor, usually 1."""


@dataclass(frozen=True)
class Range:
    """From ``least`` to ``most``, both allowed unless ``open`` excludes the ends that are not 0."""

    least: float
    most: float = INF
    why: str = ""


RANGES: dict[str, Range] = {
    "train_batch_size": Range(1, 1024), "network_dim": Range(1, 4096, "a LoRA of a higher rank is a whole model"),
    "network_alpha": Range(0, 1e6), "gradient_accumulation_steps": Range(1, 4096), "vae_batch_size": Range(1, 1024),
    "bucket_reso_steps": Range(1, 1024), "min_bucket_reso": Range(1, 16384), "max_bucket_reso": Range(16, 16384),
    "max_train_epochs": Range(1, 1_000_000), "max_train_steps": Range(1, 100_000_000),
    "initial_epoch": Range(1, 1_000_000), "initial_step": Range(0, 100_000_000),
    "save_every_n_epochs": Range(1), "save_every_n_steps": Range(1), "clip_skip": Range(1, 32),
    "learning_rate": Range(0, 1e3), "unet_lr": Range(0, 1e3), "text_encoder_lr": Range(0, 1e3),
    "lr_scheduler_num_cycles": Range(1, 1_000_000), "lr_scheduler_power": Range(0, 1e3),
    "lr_scheduler_timescale": Range(1), "lr_scheduler_min_lr_ratio": Range(0, 1),
    "lr_warmup_steps": Range(0), "lr_decay_steps": Range(0), "keep_tokens": Range(0, 1000),
    "caption_dropout_rate": Range(0, 1), "caption_dropout_every_n_epochs": Range(0),
    "caption_tag_dropout_rate": Range(0, 1),
    "token_warmup_min": Range(0, 10_000), "token_warmup_step": Range(0), "network_dropout": Range(0, 0.999),
    "scale_weight_norms": Range(0, 1e6), "weight_decay": Range(0, 1e3), "max_grad_norm": Range(0, 1e6),
    "save_state_every_n_minutes": Range(0, 1e6), "seed": Range(0, 2**63 - 1, "torch takes no other"),
    "min_snr_gamma": Range(0, 1e6, "a negative weight trains the wrong way"), "v_pred_like_loss": Range(0, 1e6),
    "huber_c": Range(1e-9, 1e6), "huber_scale": Range(1e-9, 1e6), "prior_loss_weight": Range(0, 1e6),
    "min_timestep": Range(0, 999), "max_timestep": Range(1, 1000), "noise_offset": Range(0, 10),
    "adaptive_noise_scale": Range(-10, 10), "multires_noise_iterations": Range(0, 64),
    "dataset_repeats": Range(1, 100_000), "validation_split": Range(0, 0.9, "the rest would not be worth training on"),
    "validation_seed": Range(0, 2**63 - 1), "validate_every_n_steps": Range(1), "validate_every_n_epochs": Range(1),
    "early_stopping_patience": Range(1), "early_stopping_threshold": Range(0, 0.99),
    "sample_every_n_epochs": Range(1), "sample_every_n_steps": Range(1), "max_validation_steps": Range(1),
    "multires_noise_discount": Range(0, 1), "ip_noise_gamma": Range(0, 10),
}  # fmt: skip


def errors(spec: TrainSpec) -> list[SpecError]:
    """Everything that is out of range or contradicts itself, most important first."""
    return [*_ranges(spec), *_contradictions(spec)]


def _ranges(spec: TrainSpec) -> Iterator[SpecError]:
    for key, allowed in RANGES.items():
        value = getattr(spec, key)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None or (allowed.least <= number <= allowed.most and math.isfinite(number)):
                continue
            reason = f": {allowed.why}" if allowed.why else ""
            yield SpecError(key, f"must be {_said(allowed, number)}{reason}.")
            break


def _said(allowed: Range, number: float) -> str:
    if not math.isfinite(number):
        return f"a finite number, not {number}"
    return f"at least {allowed.least:g}" if number < allowed.least else f"at most {allowed.most:g}"


def _contradictions(spec: TrainSpec) -> Iterator[SpecError]:
    if spec.max_token_length not in (None, 75, 150, 225):
        yield SpecError("max_token_length", f"must be 75, 150 or 225, not {spec.max_token_length}.")
    if spec.min_bucket_reso > spec.max_bucket_reso:
        yield SpecError("min_bucket_reso", "must not exceed max_bucket_reso.")
    width, height = spec.resolution
    if spec.enable_bucket and not spec.bucket_no_upscale and spec.bucket_reso_steps**2 > width * height:
        yield SpecError("bucket_reso_steps", f"is {spec.bucket_reso_steps}: no bucket fits {width}×{height} pixels.")
    if spec.min_timestep >= spec.max_timestep:
        yield SpecError("min_timestep", "must be less than max_timestep.")
    if not (spec.train_unet or spec.train_text_encoder):
        yield SpecError("learning_rate", "nothing would be trained: every part has learning rate 0 or is switched off.")
    if not good_name(spec.output_name):
        yield SpecError("output_name", "must be a plain file name without folders, and not too long.")
    faces = spec.face_crop_aug_range
    if faces and (len(faces) != 2 or not 0 < faces[0] <= faces[1]):
        yield SpecError("face_crop_aug_range", 'must be two numbers above 0, the smaller first, such as "1.0,3.0".')
    yield from _curve(spec)
    if spec.lr_scheduler_type and spec.lr_warmup_steps:
        yield SpecError("lr_warmup_steps", f"{spec.lr_scheduler_type} has no warm-up; set it to 0, as kohya asks.")
    if isinstance(spec.lr_warmup_steps, float) and spec.lr_warmup_steps > 1:
        yield SpecError(
            "lr_warmup_steps", f"is {spec.lr_warmup_steps}; a number with a point is a share of the run, at most 1.",
            str(int(spec.lr_warmup_steps)),
        )  # fmt: skip
    if spec.dim_from_weights and not spec.network_weights:
        yield SpecError("dim_from_weights", "needs network_weights, the file to take them from.")
    if len(spec.base_weights_multiplier) > max(1, len(spec.base_weights)):
        yield SpecError("base_weights_multiplier", "has more numbers than base_weights has files.")
    if spec.masked_loss and not (spec.alpha_mask or spec.conditioning_data_dir or _subset_masks(spec)):
        yield SpecError("masked_loss", "needs masks: alpha_mask = true, or conditioning_data_dir.")
    if spec.v_pred_like_loss and spec.v_parameterization:
        yield SpecError("v_pred_like_loss", "is for bases that predict noise, and v_parameterization is set.")
    if _plus(spec) and (spec.optimizer_type.lower().startswith(ADAPTIVE) or _relative(spec)):
        yield SpecError("network_args", f"loraplus_lr_ratio: {spec.optimizer_type} takes one learning rate for all.")
    for error in (
        problem(lambda: literals("optimizer_args", spec.optimizer_args)),
        problem(lambda: literals("lr_scheduler_args", spec.lr_scheduler_args)),
        problem(lambda: networkargs.read(spec)),
    ):
        if error and "for this base" not in error.message:  # how many blocks there are is known with the base only
            yield error


def _plus(spec: TrainSpec) -> bool:
    """Whether LoRA+ asks for a second rate; what is wrong in the arguments is said elsewhere."""
    if problem(lambda: networkargs.read(spec)):
        return False
    found = networkargs.read(spec)
    return (found.plus_unet, found.plus_text) != (1.0, 1.0)


def _relative(spec: TrainSpec) -> bool:
    """Whether Adafactor finds the rate itself."""
    return spec.optimizer_type.lower() == "adafactor" and "relative_step=False" not in spec.optimizer_args


def _subset_masks(spec: TrainSpec) -> bool:
    return any(one.mask_folder or dict(one.settings).get("alpha_mask") for one in spec.subsets)


def _curve(spec: TrainSpec) -> Iterator[SpecError]:
    name = spec.lr_scheduler.partition(":")[0]
    if spec.lr_scheduler_type:
        return
    if name == "constant" and spec.lr_warmup_steps:
        yield SpecError("lr_scheduler", "constant has no warm-up.", "constant_with_warmup")
    if name == "adafactor" and spec.optimizer_type.lower() != "adafactor":
        yield SpecError("lr_scheduler", "adafactor goes with optimizer_type = Adafactor only.")
    if name == "cosine_with_min_lr" and spec.lr_scheduler_min_lr_ratio is None:
        yield SpecError("lr_scheduler_min_lr_ratio", "is missing: cosine_with_min_lr ends there.")
    if name == "piecewise_constant" and not any(one.startswith("step_rules=") for one in spec.lr_scheduler_args):
        yield SpecError("lr_scheduler_args", 'piecewise_constant needs "step_rules=1:10,0.1:20,0.01".')


def literals(key: str, arguments: tuple[str, ...]) -> dict[str, object]:
    """``name=value`` pairs, values as Python literals, as kohya's trainer reads them.

    Raises:
        SpecError: one is not a pair.
    """
    found: dict[str, object] = {}
    for one in arguments:
        name, equals, text = one.partition("=")
        if not equals or not name.strip().isidentifier():
            raise SpecError(key, f'must be a list of "name=value", not {one!r}.')
        try:
            found[name.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[name.strip()] = text.strip()
    return found


def doubts(spec: TrainSpec) -> list[tuple[str, str]]:
    """Values that can be meant, but seldom are."""
    found = []
    adaptive = spec.optimizer_type.lower().startswith(ADAPTIVE)
    rate = max(spec.lr_of_unet if spec.train_unet else 0, spec.lr_of_text_encoder() if spec.train_text_encoder else 0)
    relative = _relative(spec)
    kind = spec.optimizer_type
    if not adaptive and not relative and rate >= 0.1:
        found.append(("learning_rate", f"learning_rate: {rate:g} is far too high for {kind}; 1e-4 is usual."))
    if adaptive and rate <= 0.1:
        found.append(("learning_rate", f"learning_rate: {kind} finds the rate itself; this is a factor, usually 1."))
    if spec.caption_dropout_rate == 1 or spec.caption_dropout_every_n_epochs == 1:
        found.append(
            ("caption_dropout_rate", "caption_dropout: every caption is left empty, so no trigger word is learnt.")
        )
    if ((spec.initial_epoch or 1) > 1 or spec.initial_step) and not spec.network_weights:
        said = "epochs are left out, and no network_weights hold what they made: the LoRA starts empty."
        found.append(("initial_epoch", f"initial_epoch: {said}"))
    if spec.min_snr_gamma is not None and spec.debiased_estimation_loss:
        found.append(
            (
                "debiased_estimation_loss",
                "debiased_estimation_loss weighs time steps a second time, beside min_snr_gamma.",
            )
        )
    if spec.log_with in ("wandb", "all"):
        found.append(("log_with", "log_with: wandb is not used; the events come home, and TensorBoard shows them."))
    elif spec.log_with and not spec.logging_dir:
        found.append(("log_with", "log_with has no effect here: logging_dir, the folder for TensorBoard, is not set."))
    held = spec.validation_split or any(dict(one.settings).get("validation_split") for one in spec.subsets)
    if spec.dataset_repeats > 1 and not spec.in_json:
        said = "dataset_repeats has no effect here: repeats are the number before the folder's name."
        found.append(("dataset_repeats", said))
    idle = (
        "validation_seed", "validate_every_n_steps", "validate_every_n_epochs", "max_validation_steps",
        "early_stopping_patience",
    )  # fmt: skip
    set_in_vain = [key for key in idle if getattr(spec, key) is not None and not held]
    return [*found, *((key, f"{key} has no effect here: validation_split is off.") for key in set_in_vain)]
