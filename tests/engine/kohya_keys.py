"""Every key of kohya's LoRA trainers, with a value of its type that is not its default.

Names and types come from ``data/kohya_options.json``, which says how it was made; the values are ours.
"""

from __future__ import annotations

import json
from pathlib import Path

OPTIONS: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parent / "data" / "kohya_options.json").read_text(encoding="utf-8")
)
_BY_TYPE: dict[str, object] = {
    "flag": True, "int": 2, "float": 0.5, "str": "x", "int or float": 5, "str list": ["a=1"], "float list": [0.5],
}  # fmt: skip
_VALUES: dict[str, object] = {
    "pretrained_model_name_or_path": "base", "v2": True, "v_parameterization": True, "vae": "vae",
    "train_data_dir": "d", "reg_data_dir": "r", "dataset_config": "c.toml", "in_json": "m.json",
    "resolution": "512", "train_batch_size": 2, "enable_bucket": True, "min_bucket_reso": 320,
    "max_bucket_reso": 960, "bucket_reso_steps": 32, "bucket_no_upscale": True, "output_dir": "o",
    "output_name": "n", "max_train_epochs": 3, "max_train_steps": 10, "learning_rate": 1e-3, "unet_lr": 1e-3,
    "text_encoder_lr": 1e-3, "lr_scheduler": "cosine", "lr_scheduler_num_cycles": 2, "lr_scheduler_power": 2.0,
    "lr_scheduler_type": "StepLR", "lr_scheduler_args": ["step_size=1"], "lr_warmup_steps": 5, "lr_decay_steps": 5,
    "network_module": "networks.lora", "network_dim": 8, "network_alpha": 4.0, "network_args": ["conv_dim=4"],
    "network_dropout": 0.1, "scale_weight_norms": 1.0, "network_train_unet_only": True,
    "network_train_text_encoder_only": True, "network_weights": "w", "dim_from_weights": True,
    "base_weights": ["w"], "base_weights_multiplier": [0.5], "optimizer_type": "AdamW8bit",
    "optimizer_args": ["weight_decay=0.1"], "max_grad_norm": 0.5, "mixed_precision": "bf16",
    "save_precision": "bf16", "save_every_n_epochs": 1, "save_every_n_steps": 5, "save_last_n_epochs": 2,
    "save_last_n_steps": 5, "save_n_epoch_ratio": 2, "save_model_as": "ckpt", "gradient_checkpointing": True,
    "gradient_accumulation_steps": 2, "seed": 4, "min_snr_gamma": 5.0, "debiased_estimation_loss": True,
    "scale_v_pred_loss_like_noise_pred": True, "v_pred_like_loss": 0.5, "noise_offset": 0.1,
    "noise_offset_random_strength": True, "adaptive_noise_scale": 0.1, "multires_noise_iterations": 6,
    "multires_noise_discount": 0.5, "ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True,
    "zero_terminal_snr": True, "min_timestep": 10, "max_timestep": 900, "loss_type": "huber",
    "huber_schedule": "snr", "huber_c": 0.2, "huber_scale": 2.0, "caption_extension": ".txt",
    "shuffle_caption": True, "keep_tokens": 1, "keep_tokens_separator": "|||", "secondary_separator": ";",
    "enable_wildcard": True, "caption_separator": ";", "caption_prefix": "p", "caption_suffix": "s",
    "caption_dropout_rate": 0.1, "caption_dropout_every_n_epochs": 2, "caption_tag_dropout_rate": 0.1,
    "token_warmup_min": 2, "token_warmup_step": 5, "weighted_captions": True, "clip_skip": 2,
    "max_token_length": 150, "cache_latents": True, "cache_latents_to_disk": True, "vae_batch_size": 2,
    "skip_cache_check": True, "cache_text_encoder_outputs": True, "cache_text_encoder_outputs_to_disk": True,
    "max_data_loader_n_workers": 2, "persistent_data_loader_workers": True, "save_state": True,
    "save_state_on_train_end": True, "save_last_n_epochs_state": 2, "save_last_n_steps_state": 2, "resume": "s",
    "initial_epoch": 2, "initial_step": 2, "skip_until_initial_step": True, "xformers": True, "sdpa": True,
    "mem_eff_attn": True, "torch_compile": True, "dynamo_backend": "inductor", "fp8_base": True,
    "fp8_base_unet": True, "full_fp16": True, "full_bf16": True, "lowram": True, "highvram": True,
    "no_half_vae": True, "cpu_offload_checkpointing": True, "prior_loss_weight": 0.5, "sample_every_n_steps": 5,
    "sample_every_n_epochs": 1, "sample_at_first": True, "sample_prompts": "p.txt", "sample_sampler": "ddim",
    "validation_split": 0.1, "validation_seed": 1, "validate_every_n_steps": 5, "validate_every_n_epochs": 1,
    "max_validation_steps": 2, "logging_dir": "l", "log_with": "tensorboard", "log_prefix": "p",
    "log_tracker_name": "t", "wandb_run_name": "r", "wandb_api_key": "k", "log_config": True, "metadata_title": "t",
    "metadata_author": "a", "metadata_description": "d", "metadata_license": "l", "metadata_tags": "t",
    "metadata_usage_hint": "u", "metadata_thumbnail": "t", "metadata_merged_from": "m",
    "metadata_trigger_phrase": "p", "metadata_preprocessor": "p", "metadata_is_negative_embedding": "n",
    "training_comment": "c", "no_metadata": True, "color_aug": True, "flip_aug": True, "random_crop": True,
    "face_crop_aug_range": "2,4", "alpha_mask": True, "masked_loss": True, "conditioning_data_dir": "c",
    "resize_interpolation": "lanczos", "dataset_repeats": 2, "output_config": True,
}  # fmt: skip
TRAINER_KEYS: dict[str, object] = {
    key: _VALUES.get(key, _BY_TYPE[kind])
    for key, kind in {**OPTIONS["train_network"], **OPTIONS["sdxl_train_network_adds"]}.items()
}
