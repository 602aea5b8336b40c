"""What becomes of every key of kohya's trainer and of its GUI that is not a field of ``TrainSpec``; what each means."""

from __future__ import annotations

from gpurent_engine.prompts import SAMPLERS

ALIASES: dict[str, str] = {
    "batch_size": "train_batch_size",
    "caption_extention": "caption_extension",  # kohya itself accepts its old misspelling
    "optimizer": "optimizer_type",
}

OPTIMISERS: tuple[str, ...] = (
    "AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "Lion", "Lion8bit", "PagedLion8bit",
    "SGDNesterov", "SGDNesterov8bit", "DAdaptation", "DAdaptAdamPreprint", "DAdaptAdam", "DAdaptAdaGrad", "DAdaptAdan",
    "DAdaptSGD", "Prodigy", "Adafactor", "AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree",
)  # fmt: skip
OPTIMISER_MODULES = ("torch.optim", "transformers", "transformers.optimization", "prodigyopt", "lion_pytorch",
                     "dadaptation", "schedulefree")  # fmt: skip
"""Where a class named by its dotted path may come from: what a host has installed."""
CURVES: tuple[str, ...] = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "adafactor",
    "inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay", "piecewise_constant",
)  # fmt: skip
TORCH_CURVES = (
    "ConstantLR", "LinearLR", "ExponentialLR", "StepLR", "MultiStepLR", "PolynomialLR", "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts", "OneCycleLR", "CyclicLR",
)  # fmt: skip
"""Classes of ``torch.optim.lr_scheduler`` that ``lr_scheduler_type`` may name."""

CHOICES: dict[str, tuple[str, ...]] = {
    "lr_scheduler": CURVES,
    "optimizer_type": OPTIMISERS,
    "mixed_precision": ("no", "fp16", "bf16"),
    "save_precision": ("float", "fp16", "bf16"),
    "sdxl_crop_coordinates": ("actual", "kohya"),
    "loss_type": ("l2", "l1", "huber", "smooth_l1"),
    "huber_schedule": ("constant", "exponential", "snr"),
    "resize_interpolation": ("lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area"),
    "sample_sampler": tuple(SAMPLERS),
    "log_with": ("tensorboard", "wandb", "all"),
    "network_module": ("networks.lora", "lycoris.kohya", "networks.loha", "networks.lokr"),
}

ZERO_IS_UNSET = frozenset((
    "save_every_n_epochs", "save_every_n_steps", "clip_skip", "min_snr_gamma", "max_timestep", "vae_batch_size",
    "max_token_length", "lr_scheduler_timescale", "validate_every_n_steps", "validate_every_n_epochs",
    "max_validation_steps", "sample_every_n_epochs", "sample_every_n_steps", "early_stopping_patience", "initial_epoch",
    "initial_step",
))  # fmt: skip
"""A GUI writes 0 for what is switched off."""

_MEMORY = "attention always runs through torch's scaled_dot_product_attention"
_CACHED = "latents are always cached, as mean and deviation, and kept on the machine for its next training"
_TEXT = "a text encoder that is not trained sees each caption once, and its output is kept on the machine"
_WORKERS = "everything is cached in memory, so there are no loader workers"
_LOGS = "progress comes home as events; no tracker runs on a rented machine"
_HUB = "results come home; a rented machine uploads nothing, and no token is sent to it"
_ONE = "there is one GPU"
_FLOW = "it belongs to models that are trained by flow matching"
_GUI = "it is a setting of the GUI, not of the training"
_UNUSED = "kohya's trainer has the option commented out; optimizer_type = AdamWScheduleFree does it"
_FP32 = "adapters stay float32, where small updates are not lost"

NO_EFFECT: dict[str, str] = {
    "save_model_as": "files are always safetensors", "use_safetensors": "files are always safetensors",
    "xformers": _MEMORY, "sdpa": _MEMORY, "mem_eff_attn": _MEMORY,
    "cache_latents": _CACHED, "cache_latents_to_disk": _CACHED, "skip_cache_check": _CACHED, "cache_info": _CACHED,
    "cache_text_encoder_outputs": _TEXT, "cache_text_encoder_outputs_to_disk": _TEXT, "text_encoder_batch_size": _TEXT,
    "max_data_loader_n_workers": _WORKERS, "persistent_data_loader_workers": _WORKERS,
    "log_config": _LOGS, "log_tracker_config": _LOGS, "wandb_run_name": _LOGS, "wandb_api_key": _LOGS,
    "console_log_level": _LOGS,
    "console_log_file": _LOGS, "console_log_simple": _LOGS,
    "huggingface_repo_id": _HUB, "huggingface_repo_type": _HUB, "huggingface_path_in_repo": _HUB,
    "huggingface_token": _HUB, "huggingface_repo_visibility": _HUB, "save_state_to_huggingface": _HUB,
    "async_upload": _HUB,
    "ddp_timeout": _ONE, "ddp_gradient_as_bucket_view": _ONE, "ddp_static_graph": _ONE, "deepspeed": _ONE,
    "zero_stage": _ONE, "offload_optimizer_device": _ONE, "offload_optimizer_nvme_path": _ONE,
    "offload_param_device": _ONE, "offload_param_nvme_path": _ONE, "zero3_init_flag": _ONE,
    "zero3_save_16bit_model": _ONE, "fp16_master_weights_and_gradients": _FP32,
    "full_fp16": _FP32, "full_bf16": _FP32,
    "lowram": "models are loaded one after the other", "highvram": "caches stay on the device already",
    "no_half_vae": "the VAE always runs in float32", "fp8_base": "the base stays in mixed_precision's format",
    "fp8_base_unet": "the base stays in mixed_precision's format", "blocks_to_swap": "the base fits the GPU",
    "cpu_offload_checkpointing": "the base fits the GPU", "fused_backward_pass": "it saves memory of full training",
    "disable_mmap_load_safetensors": "it only changes how a file is read",
    "tokenizer_cache_dir": "tokenizers come with the base",
    "save_state": "a resumable state is always kept", "save_state_on_train_end": "a resumable state is always kept",
    "save_last_n_epochs": "every checkpoint is brought home", "save_last_n_steps": "every checkpoint is brought home",
    "save_last_n_epochs_state": "one state is kept", "save_last_n_steps_state": "one state is kept",
    "save_n_epoch_ratio": "use save_every_n_epochs",
    "skip_until_initial_step": "an epoch always shows what it would in the whole training",
    "no_metadata": "metadata is what makes the file usable elsewhere",
    "dynamo_backend": "the step is compiled as the GPU needs it", "torch_compile": "the step is compiled as needed",
    "output_config": "nothing is written beside the model", "config_file": "this is the file",
    "weighting_scheme": _FLOW, "logit_mean": _FLOW, "logit_std": _FLOW, "mode_scale": _FLOW,
    "stop_text_encoder_training": "kohya's LoRA trainer ignores it as well; text_encoder_lr = 0 leaves it out",
    "LoRA_type": "network_module and network_args say it", "noise_offset_type": _GUI, "sdxl": "the base itself says it",
    "network_multiplier": "it belongs to sliders",
    "optimizer_schedulefree_wrapper": _UNUSED, "schedulefree_wrapper_args": _UNUSED,
    "clip_l": _FLOW, "clip_g": _FLOW, "t5xxl": _FLOW, "ae": _FLOW, "t5xxl_device": _FLOW, "t5xxl_dtype": _FLOW,
    "t5xxl_max_token_length": _FLOW, "apply_t5_attn_mask": _FLOW, "guidance_scale": _FLOW, "model_type": _FLOW,
    "discrete_flow_shift": _FLOW, "model_prediction_type": _FLOW, "timestep_sampling": _FLOW, "split_mode": _FLOW,
    "sigmoid_scale": _FLOW, "mem_eff_save": _FLOW, "clip_l_dropout_rate": _FLOW, "clip_g_dropout_rate": _FLOW,
    "t5_dropout_rate": _FLOW, "enable_scaled_pos_embed": _FLOW, "pos_emb_random_crop_rate": _FLOW, "save_clip": _FLOW,
    "save_t5xxl": _FLOW, "train_t5xxl": _FLOW, "split_qkv": _FLOW, "train_blocks": _FLOW, "single_dim": _FLOW,
    "double_blocks_to_swap": _FLOW, "single_blocks_to_swap": _FLOW, "img_attn_dim": _FLOW, "img_mlp_dim": _FLOW,
    "img_mod_dim": _FLOW, "txt_attn_dim": _FLOW, "txt_mlp_dim": _FLOW, "txt_mod_dim": _FLOW, "in_dims": _FLOW,
    "single_mod_dim": _FLOW,
    **dict.fromkeys((
        "attn_mode", "byt5", "compile", "compile_backend", "compile_cache_size_limit", "compile_dynamic",
        "compile_fullgraph", "compile_mode", "fp8_scaled", "fp8_vl", "gemma2", "gemma2_max_token_length",
        "llm_adapter_path", "qwen3", "qwen3_max_token_length", "qwen_image_vae_2d", "split_attn", "system_prompt",
        "t5_max_token_length", "t5_tokenizer_path", "text_encoder", "text_encoder_cpu", "unsloth_offload_checkpointing",
        "use_flash_attn", "use_sage_attn", "vae_chunk_size", "vae_disable_cache", "show_timesteps",
        "show_timesteps_resolution",
    ), _FLOW), "train_double_block_indices": _FLOW, "train_single_block_indices": _FLOW,
}  # fmt: skip

REFUSED: dict[str, str] = {
    "metadata_file": "it belongs into a [[datasets.subsets]]; beside train_data_dir the key is in_json",
    "dataset_class": "it runs code of its own",
    "debug_dataset": "`gpurent train --dry-run` shows the dataset",
    "resume": "a stopped run goes on with `gpurent continue`; to go on from a LoRA file, use network_weights",
    "resume_from_huggingface": "a stopped run goes on with `gpurent continue`",
    "train_inpainting": "inpainting bases cannot be trained",
    "custom_attributes": "the only one that kohya's trainer heeds, diff_output_preservation, is not done here; "
    "regularisation images (is_reg = true) keep what the model knows",
}  # fmt: skip

MEANING: dict[str, str] = {
    "pretrained_model_name_or_path": "base model: a diffusers folder, a `.safetensors` file or a hub id",
    "vae": "another VAE: a diffusers folder or a `.safetensors` file",
    "v2": "the base is Stable Diffusion 2.x; it is told from the base itself, and a contradiction is an error",
    "v_parameterization": "the base predicts v; a base that says so itself needs no key",
    "zero_terminal_snr": "rescale the noise schedule so that the last step is pure noise; for v-prediction",
    "train_data_dir": "parent of the `<repeats>_<concept>` folders",
    "reg_data_dir": "likewise, of regularisation images: what the model shall not forget",
    "in_json": "JSON with a caption, tags or both for each picture of `train_data_dir`, which then holds the pictures "
    "themselves", "dataset_repeats": "with `in_json`: repeats",
    "dataset_config": "a dataset TOML with `[[datasets]]`, instead of the two keys above",
    "resolution": "training size, `512` or `\"512,768\"` (width, height); with buckets its area is the limit",
    "resize_interpolation": "how pictures are scaled; empty is `lanczos`",
    "train_batch_size": "pictures a batch",
    "enable_bucket": "keep aspect ratios: sort pictures into buckets instead of cropping all to `resolution`",
    "min_bucket_reso": "shortest side of a bucket, pixels", "max_bucket_reso": "longest side of a bucket, pixels",
    "bucket_reso_steps": "sides of buckets are multiples of this",
    "bucket_no_upscale": "never enlarge a picture; the two limits above are then not used, as in kohya",
    "flip_aug": "show every second picture mirrored, at random",
    "color_aug": "show a third of the pictures in another hue or brightness, at random; not with `cache_latents`",
    "random_crop": "cut pictures at random instead of in the middle, without buckets out of the unscaled picture; not "
    "with `cache_latents`",
    "face_crop_aug_range": "two numbers: training size ÷ size of the face, without buckets, for pictures whose names "
    "end in `_X_Y_WIDTH_HEIGHT` of a face (centre and size, pixels); others are cut in the middle",
    "caption_extension": "suffix of caption files; empty tries `.txt`, then `.caption` (kohya: `.caption` only)",
    "caption_separator": "what stands between tags",
    "shuffle_caption": "shuffle the tags at each step", "keep_tokens": "first tags that stay in place",
    "keep_tokens_separator": "tags before it stay in place, and those after a second one at the end",
    "secondary_separator": "joins tags that stay together; becomes `caption_separator` in the end",
    "enable_wildcard": "`{a|b}` stands for one of both; of several lines one is chosen",
    "caption_prefix": "text before each caption", "caption_suffix": "text after each caption",
    "caption_dropout_rate": "share of captions left empty, 0 to 1",
    "caption_dropout_every_n_epochs": "all captions are empty in every n-th epoch; 0: never",
    "caption_tag_dropout_rate": "share of tags left out, those kept by `keep_tokens` excepted",
    "token_warmup_min": "tags shown at the start of the warm-up",
    "token_warmup_step": "steps until all tags are shown; below 1, a share of the run",
    "weighted_captions": "`(word:1.3)` and `[word]` weigh words as in A1111",
    "output_dir": "where results go", "output_name": "name of the LoRA file, without suffix",
    "max_train_epochs": "epochs; wins over `max_train_steps`", "max_train_steps": "optimiser steps",
    "initial_epoch": "begin at this epoch, counted from 1, and train up to `max_train_epochs`; with `network_weights` "
    "it goes on from a LoRA. Files, captions and order are those of these epochs; the curve of the rates spans them",
    "initial_step": "likewise, at the epoch of this step; wins over `initial_epoch`, as in kohya",
    "learning_rate": "rate of every part without one of its own (kohya's default of 2e-6 trains next to nothing)",
    "unet_lr": "rate of the UNet; 0 leaves it out", "text_encoder_lr": "rate of the text encoder; 0 leaves it out",
    "lr_scheduler": "curve of the rate; `adafactor:RATE` names where it begins",
    "lr_scheduler_type": "a class of `torch.optim.lr_scheduler` instead",
    "lr_scheduler_args": "its arguments, a list of `name=value`",
    "lr_scheduler_num_cycles": "restarts of `cosine_with_restarts`",
    "lr_scheduler_power": "exponent of `polynomial`",
    "lr_scheduler_timescale": "of `inverse_sqrt`; empty is the warm-up, or 10,000",
    "lr_scheduler_min_lr_ratio": "where `cosine_with_min_lr` and `warmup_stable_decay` end, as a share of the rate",
    "lr_warmup_steps": "a whole number is steps, a number with a point a share of the run",
    "lr_decay_steps": "likewise, at the end, for `warmup_stable_decay`",
    "network_module": "the kind of network; `lycoris.kohya` reads `algo` from `network_args`",
    "network_dim": "rank of the LoRA", "network_alpha": "the LoRA is scaled by alpha divided by rank; 0 is the rank",
    "network_args": "a list of `name=value`: see below",
    "network_dropout": "share of the values between down and up left out at random, 0 to 1",
    "network_weights": "a LoRA file to start from", "dim_from_weights": "take ranks and alphas from that file",
    "base_weights": "LoRA files merged into the base before training",
    "base_weights_multiplier": "their strengths; 1 where none is given",
    "scale_weight_norms": "largest norm of a layer's change; 0: no limit",
    "network_train_unet_only": "leave the text encoder out",
    "network_train_text_encoder_only": "leave the UNet out",
    "optimizer_type": "8-bit and paged kinds need bitsandbytes on the host, else the same is computed in float32",
    "optimizer_args": "its arguments, a list of `name=value`; wins over `weight_decay`",
    "weight_decay": "of AdamW; a key of ours", "max_grad_norm": "gradients are clipped to this norm; 0 does not clip",
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
    "min_snr_gamma": "weigh time steps by min-SNR; usual value 5, 0: off",
    "debiased_estimation_loss": "weigh time steps by 1 / √SNR",
    "scale_v_pred_loss_like_noise_pred": "with v-prediction, weigh time steps as noise prediction does",
    "v_pred_like_loss": "with noise prediction, add the loss of v-prediction times this",
    "loss_type": "how errors are measured", "huber_schedule": "how the threshold of huber falls with the time step",
    "huber_c": "that threshold", "huber_scale": "what it is multiplied by",
    "prior_loss_weight": "weight of regularisation images",
    "masked_loss": "weigh each part of a picture by its mask in `conditioning_data_dir`",
    "alpha_mask": "weigh each part of a picture by its transparency",
    "conditioning_data_dir": "folder of masks with the pictures' names",
    "min_timestep": "first time step that is trained", "max_timestep": "the one after the last",
    "noise_offset": "learn darker and lighter pictures",
    "noise_offset_random_strength": "draw the strength between 0 and `noise_offset`",
    "adaptive_noise_scale": "add this much of the latent's mean to `noise_offset`",
    "multires_noise_iterations": "add noise of this many coarser sizes; 0: none",
    "multires_noise_discount": "share of each coarser size in the one before",
    "ip_noise_gamma": "disturb the input by this much more noise",
    "ip_noise_gamma_random_strength": "draw the strength between 0 and `ip_noise_gamma`",
    "validation_split": "share of each folder's pictures that is not trained on; its loss is told",
    "validation_seed": "which pictures are held out, and their noise; empty: as `seed`",
    "validate_every_n_steps": "take the loss of held-out pictures this often, besides the end of epochs",
    "validate_every_n_epochs": "likewise, in epochs; empty: after each",
    "max_validation_steps": "batches of held-out pictures at most",
    "early_stopping_patience": "end the training when this many looks at held-out pictures in a row were no better "
    "than before; the finished file is then the best. A key of ours",
    "early_stopping_threshold": "share by which the loss must fall to count as better; a key of ours",
    "sample_prompts": "file with a prompt in each line: `a knight --n blurry --w 512 --h 768 --d 1 --s 30 --l 7.5 --ss "
    "euler_a`; sizes are the training's and seeds fixed unless said (kohya: 512, random)",
    "sample_every_n_epochs": "draw them this often, with the model as it is then", "sample_every_n_steps": "likewise; "
    "not beside the former, as in kohya", "sample_at_first": "draw them before the first step, too",
    "sample_sampler": "sampler of prompts that name none",
    "logging_dir": "folder on your computer for TensorBoard; each run gets one in it",
    "log_with": "`tensorboard`, which `logging_dir` means anyway; needs `pip install 'gpurent[tensorboard]'`",
    "log_prefix": "begins the name of the run's folder",
    "log_tracker_name": "folder inside it; empty is `network_train`",
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
