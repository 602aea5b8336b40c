"""Stable Diffusion 2.x: one OpenCLIP ViT-H text encoder without its last layer, 64 channels a head, often v-prediction.

Stability's 512-base models predict epsilon, the 768 ones v. A single file does not say which: ``v_parameterization``
does.
"""

from __future__ import annotations

from gpurent_engine.families.record import Family, Memory, TextEncoder, Work, blocks

SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    pipelines=("StableDiffusionPipeline",),
    text_encoders=(
        TextEncoder("text_encoder", "tokenizer", "lora_te", layers=23, width=1024, heads=16, activation="gelu", pad=0),
    ),
    head_channels=64,
    heads=0,
    context_width=1024,
    unet=blocks((320, 640, 1280, 1280), (1, 1, 1, 0)),
    linear_projection=True,
    sgm_names=False,
    size_conditioning=False,
    latent_scale=0.18215,
    predictions=("epsilon", "v_prediction"),
    base_model_version="sd_v2",
    v_suffix="_v",
    architecture="stable-diffusion-v2-512",
    v_architecture="stable-diffusion-v2-768-v",
    implementation="diffusers",
    side=768,
    usual_base="stabilityai/stable-diffusion-2-1",
    base_bytes=2_410_000_000,  # 866 M parameters of UNet, 340 M of text encoder
    vae_bytes=335_000_000,
    bytes_per_rank=1_720_000,
    # nearly Stable Diffusion 1.5's UNet
    work=Work(tflop=((512, 1.747), (768, 4.960)), recompute=1.371, launches=1.0, reached=347),
    memory=Memory(weights_mb=2300, image_mb=1980, checkpointed=0.25, rank_mb=13.7, text_mb=150),
)
