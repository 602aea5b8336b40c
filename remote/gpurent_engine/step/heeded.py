"""Which configurations the fast step can train: decided without torch, so that a quote knows it, too."""

from __future__ import annotations

from gpurent_engine import limits, networkargs
from gpurent_engine.spec import TYPES, TrainSpec

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
    "reg_data_dir", "dataset_config", "in_json",
    "dataset_repeats", "resolution", "resize_interpolation", "train_batch_size", "enable_bucket",
    "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale", "flip_aug", "color_aug",
    "random_crop", "face_crop_aug_range", "caption_extension",
    "caption_separator", "shuffle_caption", "keep_tokens", "keep_tokens_separator", "secondary_separator",
    "enable_wildcard", "caption_prefix", "caption_suffix", "caption_dropout_rate", "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step", "output_dir", "output_name",
    "max_train_epochs", "max_train_steps", "initial_epoch", "initial_step", "learning_rate", "unet_lr",
    "text_encoder_lr", "lr_scheduler",
    "lr_scheduler_type", "lr_scheduler_args", "lr_scheduler_num_cycles", "lr_scheduler_power",
    "lr_scheduler_timescale", "lr_scheduler_min_lr_ratio", "lr_warmup_steps", "lr_decay_steps", "base_weights",
    "base_weights_multiplier", "dim_from_weights", "save_precision", "save_every_n_epochs", "save_every_n_steps",
    "save_state_every_n_minutes", "sdxl_crop_coordinates", "min_snr_gamma", "debiased_estimation_loss",
    "scale_v_pred_loss_like_noise_pred", "v_pred_like_loss", "huber_schedule", "huber_c", "huber_scale",
    "prior_loss_weight", "min_timestep", "max_timestep", "noise_offset", "noise_offset_random_strength",
    "adaptive_noise_scale", "multires_noise_iterations", "multires_noise_discount", "ip_noise_gamma_random_strength",
    "vae_batch_size", "validation_split", "validation_seed", "validate_every_n_steps", "validate_every_n_epochs",
    "max_validation_steps", "early_stopping_patience", "early_stopping_threshold", "sample_prompts",
    "sample_every_n_epochs", "sample_every_n_steps", "sample_at_first", "sample_sampler", "logging_dir", "log_with",
    "log_prefix", "log_tracker_name", "training_comment", "metadata_title", "metadata_author", "metadata_description",
    "metadata_license", "metadata_tags", "metadata_trigger_phrase", "metadata_usage_hint", "metadata_thumbnail",
    "metadata_merged_from", "metadata_preprocessor", "metadata_is_negative_embedding",
))  # fmt: skip
"""Keys that are done with before a batch reaches a stepper, or after."""
ARGUMENTS = ("betas", "eps", "weight_decay")
"""Of AdamW, in ``optimizer_args``."""


def unheeded(spec: TrainSpec, *, sdxl: bool) -> str:
    """The first thing in ``spec`` that could reach the step and is not one of those that it knows; "" if there is none.

    A key that is added to the configuration is refused here until somebody has seen that the step heeds it.
    """
    if spec.optimizer_type not in OPTIMISERS:
        return f"optimizer_type = {spec.optimizer_type}"
    for name, value in limits.literals("optimizer_args", spec.optimizer_args).items():
        if name not in ARGUMENTS:
            return f"optimizer_args has {name}={value}"
    plain = TrainSpec("")
    for key in sorted(set(TYPES) - HEEDED - OUTSIDE):
        if getattr(spec, key) != getattr(plain, key):
            return f"{key} = {getattr(spec, key)!r}"
    network = networkargs.read(spec, sdxl)
    if (network.plus_unet, network.plus_text) != (1.0, 1.0):
        return "network_args with LoRA+"
    if not network.plain:
        return "network_args with dropouts" if not network.quiet else f"{network.algo}{' with DoRA' * network.dora}"
    for subset in spec.subsets:
        for name, value in subset.settings:
            if name not in HEEDED | OUTSIDE and value != getattr(plain, name):
                return f"{name} = {value!r}"
    return ""
