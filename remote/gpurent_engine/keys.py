"""What becomes of every key of kohya's trainer that is not a field of ``TrainSpec``."""

from __future__ import annotations

ALIASES: dict[str, str] = {
    "batch_size": "train_batch_size",
    "caption_extention": "caption_extension",  # kohya itself accepts its old misspelling
    "optimizer": "optimizer_type",
}

CHOICES: dict[str, tuple[str, ...]] = {
    "lr_scheduler": ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"),
    "optimizer_type": ("AdamW", "AdamW8bit"),
    "mixed_precision": ("no", "fp16", "bf16"),
    "save_precision": ("float", "fp16", "bf16"),
    "sdxl_crop_coordinates": ("actual", "kohya"),
}

_MEMORY = "attention always runs through torch's scaled_dot_product_attention"
_CACHED = "latents are always cached, in memory, as mean and deviation"
_TEXT = "a text encoder that is not trained sees each caption once, and its output is kept in memory"
_WORKERS = "everything is cached in memory, so there are no loader workers"
_LOGS = "progress goes home as events; no tracker runs on a stranger's host"
_BUCKET = "the dataset is found by its folders"

NO_EFFECT: dict[str, str] = {
    "network_module": "the network is always a LoRA in kohya's layout",
    "save_model_as": "files are always safetensors",
    "xformers": _MEMORY, "sdpa": _MEMORY, "mem_eff_attn": _MEMORY,
    "cache_latents": _CACHED, "cache_latents_to_disk": _CACHED, "skip_cache_check": _CACHED,
    "cache_text_encoder_outputs": _TEXT, "cache_text_encoder_outputs_to_disk": _TEXT,
    "max_data_loader_n_workers": _WORKERS, "persistent_data_loader_workers": _WORKERS,
    "logging_dir": _LOGS, "log_with": _LOGS, "log_prefix": _LOGS, "log_tracker_name": _LOGS, "log_config": _LOGS,
    "wandb_run_name": _LOGS, "wandb_api_key": _LOGS,
    "lowram": "models are loaded one after the other", "highvram": "caches stay on the device already",
    "no_half_vae": "the VAE always runs in float32",
    "prior_loss_weight": "it weighs regularisation images only, and none are used",
    "save_state": "a resumable state is always kept", "save_state_on_train_end": "a resumable state is always kept",
    "save_last_n_epochs": "every checkpoint is brought home", "save_last_n_steps": "every checkpoint is brought home",
    "save_last_n_epochs_state": "one state is kept", "save_last_n_steps_state": "one state is kept",
    "save_n_epoch_ratio": "use save_every_n_epochs",
    "sample_every_n_epochs": "sample grids are made at home", "sample_every_n_steps": "sample grids are made at home",
    "sample_at_first": "sample grids are made at home", "sample_prompts": "sample grids are made at home",
    "sample_sampler": "sample grids are made at home",
    "in_json": _BUCKET, "dataset_repeats": "repeats are the number before the folder's name",
    "no_metadata": "metadata is what makes the file usable elsewhere",
    "huber_c": "the loss is l2", "huber_scale": "the loss is l2", "huber_schedule": "the loss is l2",

    "caption_separator": "captions are split at commas", "vae": "the base model's own VAE is used",
    "dynamo_backend": "nothing is compiled yet", "torch_compile": "nothing is compiled yet",
    "output_config": "nothing is written beside the model",
}  # fmt: skip

DEFAULTS: dict[str, object] = {
    "loss_type": "l2", "keep_tokens_separator": "", "token_warmup_min": 1, "min_timestep": 0, "max_timestep": 1000,
    "multires_noise_discount": 0.3, "lr_scheduler_type": "", "base_weights_multiplier": 1.0,
    "validation_split": 0.0,
}  # fmt: skip
"""Keys of REFUSED whose value here is what is done anyway (a GUI writes them all)."""

_LATER = "it would change the result, and this version does not do it"
REFUSED: dict[str, str] = {
    "reg_data_dir": "regularisation images are not used by this version",
    "dataset_config": "name the dataset with train_data_dir",
    "network_args": _LATER, "network_dropout": _LATER, "scale_weight_norms": _LATER,
    "network_weights": _LATER, "dim_from_weights": _LATER, "base_weights": _LATER, "base_weights_multiplier": _LATER,
    "lr_scheduler_type": "choose one of lr_scheduler", "lr_scheduler_args": _LATER, "lr_decay_steps": _LATER,
    "optimizer_args": "weight_decay is a key of its own; others are not passed on by this version",
    "full_fp16": "LoRA weights in fp16 underflow; they stay float32",
    "full_bf16": "LoRA weights in bf16 lose small updates; they stay float32",
    "debiased_estimation_loss": _LATER, "scale_v_pred_loss_like_noise_pred": _LATER, "v_pred_like_loss": _LATER,
    "noise_offset_random_strength": _LATER, "adaptive_noise_scale": _LATER, "multires_noise_iterations": _LATER,
    "multires_noise_discount": _LATER, "ip_noise_gamma": _LATER, "ip_noise_gamma_random_strength": _LATER,
    "min_timestep": _LATER, "max_timestep": _LATER,
    "loss_type": "the loss is l2",
    "keep_tokens_separator": _LATER, "secondary_separator": _LATER, "enable_wildcard": _LATER,
    "caption_dropout_every_n_epochs": _LATER, "caption_tag_dropout_rate": _LATER, "token_warmup_min": _LATER,
    "token_warmup_step": _LATER, "weighted_captions": _LATER,
    "resume": "a stopped run is resumed with `gpurent attach`", "initial_epoch": _LATER, "initial_step": _LATER,
    "skip_until_initial_step": _LATER, "fp8_base": _LATER, "fp8_base_unet": _LATER, "cpu_offload_checkpointing": _LATER,
    "validation_split": _LATER, "validation_seed": _LATER, "validate_every_n_steps": _LATER,
    "validate_every_n_epochs": _LATER, "max_validation_steps": _LATER,
    "color_aug": _LATER, "flip_aug": _LATER, "random_crop": _LATER, "face_crop_aug_range": _LATER,
    "alpha_mask": _LATER, "masked_loss": _LATER, "conditioning_data_dir": _LATER, "resize_interpolation": _LATER,
    "epoch": "that is a key of kohya's GUI; use max_train_epochs",
    "LoRA_type": "that is a key of kohya's GUI", "stop_text_encoder_training": "that is a key of kohya's GUI",
}  # fmt: skip

MEANING: dict[str, str] = {
    "pretrained_model_name_or_path": "base model: a diffusers folder, a `.safetensors` file or a hub id",
    "v2": "the base is Stable Diffusion 2.x; it is told from the base itself, and a contradiction is an error",
    "v_parameterization": "the base predicts v; a base that says so itself needs no key",
    "zero_terminal_snr": "rescale the noise schedule so that the last step is pure noise; for v-prediction",
    "train_data_dir": "parent of the `<repeats>_<concept>` folders",
    "resolution": "training size, `512` or `\"512,768\"` (width, height); with buckets its area is the limit",
    "train_batch_size": "pictures a batch",
    "enable_bucket": "keep aspect ratios: sort pictures into buckets instead of cropping all to `resolution`",
    "min_bucket_reso": "shortest side of a bucket, pixels", "max_bucket_reso": "longest side of a bucket, pixels",
    "bucket_reso_steps": "sides of buckets are multiples of this",
    "bucket_no_upscale": "never enlarge a picture; the two limits above are then not used, as in kohya",
    "caption_extension": "suffix of caption files; empty tries `.txt`, then `.caption` (kohya: `.caption` only)",
    "shuffle_caption": "shuffle the tags between commas at each step", "keep_tokens": "first tags that stay in place",
    "caption_prefix": "text before each caption", "caption_suffix": "text after each caption",
    "caption_dropout_rate": "share of captions left empty, 0 to 1",
    "output_dir": "where results go", "output_name": "name of the LoRA file, without suffix",
    "max_train_epochs": "epochs; wins over `max_train_steps`", "max_train_steps": "optimiser steps",
    "learning_rate": "rate of every part without one of its own (kohya's default of 2e-6 trains next to nothing)",
    "unet_lr": "rate of the UNet; 0 leaves it out", "text_encoder_lr": "rate of the text encoder; 0 leaves it out",
    "lr_scheduler": "curve of the rate", "lr_scheduler_num_cycles": "restarts of `cosine_with_restarts`",
    "lr_scheduler_power": "exponent of `polynomial`",
    "lr_warmup_steps": "a whole number is steps, a number with a point a share of the run",
    "network_dim": "rank of the LoRA", "network_alpha": "the LoRA is scaled by alpha divided by rank",
    "network_train_unet_only": "leave the text encoder out",
    "network_train_text_encoder_only": "leave the UNet out",
    "optimizer_type": "`AdamW8bit` needs bitsandbytes on the host, else `AdamW` is used and a warning says so",
    "weight_decay": "of the optimiser", "max_grad_norm": "gradients are clipped to this norm; 0 does not clip",
    "mixed_precision": "number format of the frozen base; LoRA weights are always float32",
    "save_precision": "number format of the saved file (kohya: float)",
    "save_every_n_epochs": "a checkpoint this often", "save_every_n_steps": "a checkpoint this often",
    "save_state_every_n_minutes": "a resumable state this often; 0: each twentieth of the run",
    "gradient_checkpointing": "compute twice to save memory",
    "gradient_accumulation_steps": "batches gathered into one optimiser step",
    "seed": "of weights, noise and order (kohya: random)",
    "clip_skip": "use the text encoder's n-th layer from the end",
    "sdxl_crop_coordinates": "what SDXL is told of the crop: the `actual` offset, or `kohya`'s formula (see buckets)",
    "max_token_length": "tokens of a caption that count: 75, 150 or 225",
    "min_snr_gamma": "weigh time steps by min-SNR; usual value 5", "noise_offset": "learn darker and lighter pictures",
    "vae_batch_size": "pictures encoded at once before training", "training_comment": "goes into the file",
    "metadata_title": "goes into the file", "metadata_author": "goes into the file",
    "metadata_description": "goes into the file", "metadata_license": "goes into the file",
    "metadata_tags": "goes into the file",
    "metadata_usage_hint": "goes into the file", "metadata_merged_from": "goes into the file",
    "metadata_preprocessor": "goes into the file", "metadata_is_negative_embedding": "goes into the file",
    "metadata_thumbnail": "a picture that goes into the file, scaled down to 256 pixels",
    "metadata_trigger_phrase": "goes into the file; empty: the tags that every caption has",
}  # fmt: skip
"""One line on each field of ``TrainSpec``, for the documentation."""
