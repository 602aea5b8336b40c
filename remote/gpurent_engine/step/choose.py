"""Whether the fast step can do what a run asks for, and with which parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.optim import AdamW

from gpurent_engine import limits, networkargs
from gpurent_engine.diffusion import Diffusion
from gpurent_engine.families.parts import Parts
from gpurent_engine.networks.lora import first_down
from gpurent_engine.networks.plan import Plan, model_of
from gpurent_engine.spec import TYPES, TrainSpec
from gpurent_engine.step.build import UnsupportedError
from gpurent_engine.step.check import verify
from gpurent_engine.step.fast import FastStepper
from gpurent_engine.step.kernels import backend
from gpurent_engine.step.switches import Switches
from gpurent_engine.step.update import Hyper

OPTIMISERS = ("AdamW", "AdamW8bit")
"""The second in float32: exact, and a few hundred megabytes larger at most."""
HEEDED = frozenset((
    "optimizer_type", "optimizer_args", "weight_decay", "max_grad_norm", "gradient_checkpointing",
    "gradient_accumulation_steps", "clip_skip", "network_dim", "network_alpha", "network_args", "network_module",
    "mixed_precision", "seed", "network_train_unet_only", "network_train_text_encoder_only", "max_token_length",
))  # fmt: skip
"""Keys that the fast step itself computes by, or that are looked at below."""
OUTSIDE = frozenset((
    "pretrained_model_name_or_path", "vae", "v2", "v_parameterization", "zero_terminal_snr", "train_data_dir",
    "reg_data_dir", "dataset_config", "resolution", "resize_interpolation", "train_batch_size", "enable_bucket",
    "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale", "flip_aug", "caption_extension",
    "caption_separator", "shuffle_caption", "keep_tokens", "keep_tokens_separator", "secondary_separator",
    "enable_wildcard", "caption_prefix", "caption_suffix", "caption_dropout_rate", "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step", "output_dir", "output_name",
    "max_train_epochs", "max_train_steps", "learning_rate", "unet_lr", "text_encoder_lr", "lr_scheduler",
    "lr_scheduler_type", "lr_scheduler_args", "lr_scheduler_num_cycles", "lr_scheduler_power",
    "lr_scheduler_timescale", "lr_scheduler_min_lr_ratio", "lr_warmup_steps", "lr_decay_steps", "base_weights",
    "base_weights_multiplier", "dim_from_weights", "save_precision", "save_every_n_epochs", "save_every_n_steps",
    "save_state_every_n_minutes", "sdxl_crop_coordinates", "min_snr_gamma", "debiased_estimation_loss",
    "scale_v_pred_loss_like_noise_pred", "v_pred_like_loss", "huber_schedule", "huber_c", "huber_scale",
    "prior_loss_weight", "min_timestep", "max_timestep", "noise_offset", "noise_offset_random_strength",
    "adaptive_noise_scale", "multires_noise_iterations", "multires_noise_discount", "ip_noise_gamma_random_strength",
    "vae_batch_size", "training_comment", "metadata_title", "metadata_author", "metadata_description",
    "metadata_license", "metadata_tags", "metadata_trigger_phrase", "metadata_usage_hint", "metadata_thumbnail",
    "metadata_merged_from", "metadata_preprocessor", "metadata_is_negative_embedding",
))  # fmt: skip
"""Keys that are done with before a batch reaches a stepper, or after."""


@dataclass(frozen=True)
class Chosen:
    """``level`` says how the step runs, ``notes`` what the user may want to know, ``optimizer`` is its name in the
    metadata."""

    stepper: FastStepper
    level: str
    notes: tuple[str, ...]
    optimizer: str


def fast_stepper(
    parts: Parts, plan: Plan, diffusion: Diffusion, spec: TrainSpec, device: torch.device, *, wanted: str = ""
) -> Chosen:
    """The fast step for this run, its adapters filled with their first values.

    Args:
        parts: the base on its device, frozen, without adapters.
        plan: which layers get one.
        diffusion: noise schedule and prediction.
        spec: the configuration.
        device: where the base is.
        wanted: the level, or "" for the best that runs here.

    Raises:
        UnsupportedError: something in the base or the configuration is not one that the fast step knows.
    """
    refuse_unknown(spec, plan)
    hyper = settings(spec)
    notes = []
    missing = backend.missing() if device.type == "cuda" else ""
    if missing:
        notes.append(f"{missing}; the step runs on torch's operations, which takes longer.")
    if spec.optimizer_type == "AdamW8bit":
        notes.append("AdamW8bit is computed in float32: the same update without its rounding.")
    switches = Switches.parse(wanted) if wanted else Switches(kernels=not missing, stacked=not missing)
    if spec.gradient_checkpointing:
        switches = replace(switches, checkpoint="blocks")
    first = first_values(parts, plan, spec.seed)
    stepper = FastStepper(
        parts,
        plan,
        diffusion,
        hyper,
        switches=switches,
        clip_skip=spec.clip_skip,
        accumulate=spec.gradient_accumulation_steps > 1,
    )
    stepper.start(first)
    verify(stepper.core, parts, spec.clip_skip)
    name = f"{AdamW.__module__}.{AdamW.__qualname__}(weight_decay={hyper.weight_decay})"
    return Chosen(stepper, str(switches), tuple(notes), name)


def settings(spec: TrainSpec) -> Hyper:
    """AdamW's settings, from the configuration and its ``optimizer_args``.

    Raises:
        UnsupportedError: an argument is not one of ``weight_decay``, ``betas``, ``eps``.
    """
    given = limits.literals("optimizer_args", spec.optimizer_args)
    hyper = Hyper(weight_decay=spec.weight_decay, max_norm=spec.max_grad_norm)
    for name, value in given.items():
        if name == "betas" and isinstance(value, list | tuple) and len(value) == 2:
            hyper = replace(hyper, betas=(float(value[0]), float(value[1])))
        elif name == "weight_decay" and isinstance(value, int | float):
            hyper = replace(hyper, weight_decay=float(value))
        elif name == "eps" and isinstance(value, int | float):
            hyper = replace(hyper, eps=float(value))
        else:
            raise UnsupportedError(f"optimizer_args has {name}={value}")
    return hyper


def refuse_unknown(spec: TrainSpec, plan: Plan) -> None:
    """Refuse whatever could reach the step and is not one of the keys that it knows.

    A key that is added to the configuration is refused here until somebody has seen that the step heeds it.

    Raises:
        UnsupportedError: naming the key.
    """
    if spec.optimizer_type not in OPTIMISERS:
        raise UnsupportedError(f"optimizer_type = {spec.optimizer_type}")
    plain = TrainSpec("")
    for key in sorted(set(TYPES) - HEEDED - OUTSIDE):
        if getattr(spec, key) != getattr(plain, key):
            raise UnsupportedError(f"{key} = {getattr(spec, key)!r}")
    for layer in plan.layers:
        if not layer.plain:
            raise UnsupportedError(
                f"there is a {layer.algo} adapter{' with DoRA' if layer.dora else ''} on {layer.module}"
            )
    if spec.network_args and not networkargs.read(spec, _sdxl(plan)).plain:
        raise UnsupportedError("network_args with dropouts")
    for subset in spec.subsets:
        for name, value in subset.settings:
            if name not in HEEDED | OUTSIDE and value != getattr(plain, name):
                raise UnsupportedError(f"{name} = {value!r}")


def _sdxl(plan: Plan) -> bool:
    return any(layer.key.startswith("lora_unet_input_blocks") for layer in plan.layers)


def first_values(parts: Parts, plan: Plan, seed: int) -> dict[str, torch.Tensor]:
    """What ``networks.lora.attach`` draws: ``down`` for each layer of the plan in order, ``up`` zero."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for layer in plan.layers:
        weight = model_of(parts, layer.part).get_submodule(layer.module).weight
        down = torch.Size((layer.rank, *weight.shape[1:]))
        up = torch.Size((weight.shape[0], layer.rank, *(1 for _ in weight.shape[2:])))
        found[f"{layer.key}.lora_down.weight"] = first_down(down, up, generator)
        found[f"{layer.key}.lora_up.weight"] = torch.zeros(up)
    return found
