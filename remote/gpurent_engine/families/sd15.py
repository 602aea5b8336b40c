"""Stable Diffusion 1.x: one CLIP ViT-L text encoder, a UNet with eight heads everywhere, 512 px."""

from __future__ import annotations

from gpurent_engine.families.record import Family, Memory, TextEncoder, Work, blocks

SD15 = Family(
    name="sd15",
    title="Stable Diffusion 1.x",
    pipelines=("StableDiffusionPipeline",),
    text_encoders=(TextEncoder("text_encoder", "tokenizer", "lora_te"),),
    head_channels=None,
    heads=8,
    context_width=768,
    unet=blocks((320, 640, 1280, 1280), (1, 1, 1, 0)),
    linear_projection=False,
    sgm_names=False,
    size_conditioning=False,
    latent_scale=0.18215,
    predictions=("epsilon", "v_prediction"),
    base_model_version="sd_v1",
    v_suffix="_v",
    architecture="stable-diffusion-v1",
    v_architecture="stable-diffusion-v1",
    implementation="diffusers",
    side=512,
    usual_base="stable-diffusion-v1-5/stable-diffusion-v1-5",
    base_bytes=1_970_000_000,  # without the safety checker
    vae_bytes=335_000_000,
    bytes_per_rank=1_180_000,
    work=Work(tflop=((512, 1.747), (768, 4.960)), recompute=1.371, launches=1.0, reached=347),
    # Activations as measured on an H200 without a compiler: 3.7 GB reserved at batch 1, 6.2 at batch 4; with one less.
    memory=Memory(weights_mb=2000, image_mb=820, checkpointed=0.25, rank_mb=9.4, text_mb=100),
)
