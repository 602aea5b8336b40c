"""Stable Diffusion XL and its descendants (Illustrious, NoobAI, Pony).

Two text encoders side by side, pooled text and picture sizes condition the UNet.

NoobAI's v-prediction models say so by two empty tensors, ``v_pred`` and ``ztsnr``, in their single file.
"""

from __future__ import annotations

from gpurent_engine.families.record import Family, Memory, TextEncoder, Work, blocks

SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    pipelines=("StableDiffusionXLPipeline",),
    text_encoders=(
        TextEncoder("text_encoder", "tokenizer", "lora_te1", layer=2, normed=False),
        TextEncoder(
            "text_encoder_2",
            "tokenizer_2",
            "lora_te2",
            layer=2,
            normed=False,
            pooled=True,
            layers=32,
            width=1280,
            heads=20,
            activation="gelu",
            pad=0,
        ),
    ),
    head_channels=64,
    heads=0,
    context_width=2048,
    unet=blocks((320, 640, 1280), (0, 2, 10)),
    linear_projection=True,
    sgm_names=True,
    size_conditioning=True,
    latent_scale=0.13025,
    predictions=("epsilon", "v_prediction"),
    base_model_version="sdxl_base_v1-0",
    v_suffix="",
    architecture="stable-diffusion-xl-v1-base",
    v_architecture="stable-diffusion-xl-v1-base",
    implementation="https://github.com/Stability-AI/generative-models",
    side=1024,
    usual_base="stabilityai/stable-diffusion-xl-base-1.0",
    base_bytes=6_780_000_000,  # 2568 M parameters of UNet, 123 M and 695 M of text encoders
    vae_bytes=335_000_000,
    bytes_per_rank=7_130_000,
    work=Work(
        tflop=((512, 3.205), (768, 7.540), (1024, 14.347)),
        recompute=1.427,
        launches=2.7,  # 722 adapters in the UNet instead of 192
        reached=428,
    ),
    # As measured on an H200 without a compiler: 14.7 GB reserved at batch 1, 33.5 at batch 4; with checkpointing 9.2
    # and 11.4. Text encoders come on top.
    memory=Memory(weights_mb=6500, image_mb=6000, checkpointed=0.17, rank_mb=40.0, text_mb=400),
)
