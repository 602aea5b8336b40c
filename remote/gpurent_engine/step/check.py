"""Does our forward pass still say what the libraries' own models say? Asked once, when a base has been loaded.

A release of diffusers or transformers may change a block; then its own code is right and ours is not.
"""

from __future__ import annotations

import torch

from gpurent_engine.families.parts import Encoder, Parts
from gpurent_engine.step.build import UnsupportedError
from gpurent_engine.step.core import Core
from gpurent_engine.step.kernels.backend import kernels
from gpurent_engine.text import encode

EDGE = 16
"""Latent pixels a side: every level of the UNet has some."""
ALLOWED = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""Relative distance. Half precision rounds at every layer, and the two round in different places."""


def verify(core: Core, parts: Parts, clip_skip: int | None) -> None:
    """Compare the UNet, and each text encoder that trains, with the library's; the adapters must add nothing yet.

    Raises:
        UnsupportedError: they differ; the message says where and by how much.
    """
    # trying cuDNN's algorithms does not pay for shapes that never come again
    tries, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        _verify(core, parts, clip_skip)
    finally:
        torch.backends.cudnn.benchmark = tries


@torch.no_grad()
def _verify(core: Core, parts: Parts, clip_skip: int | None) -> None:
    draw = torch.Generator().manual_seed(0)
    config, device, dtype = parts.unet.config, core.device, core.dtype

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(device, dtype)

    count = 2 * core.bank.adapters
    noisy, text = normal(count, config.in_channels, EDGE, EDGE), normal(count, 77, config.cross_attention_dim)
    times = torch.tensor([10, 700] * core.bank.adapters, device=device)
    pooled = sizes = None
    extra = {}
    if parts.family.size_conditioning:
        pooled = normal(count, config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim)
        sizes = torch.tensor([[512.0, 640.0, 0.0, 16.0, 512.0, 640.0]] * count, device=device)
        extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    theirs = parts.unet(noisy, times, text, return_dict=False, **extra)[0]
    with kernels(core.switches.kernels):
        mine = core.unet(noisy.permute(0, 2, 3, 1).contiguous(), times, text, pooled, sizes)
        _compare("UNet", mine.permute(0, 3, 1, 2), theirs, ALLOWED[dtype])
        for encoder in parts.text_encoders:
            if encoder.facts.folder in core.texts:
                _compare_text(core, encoder, clip_skip)


def _compare_text(core: Core, encoder: Encoder, clip_skip: int | None) -> None:
    name = encoder.facts.folder
    ids = torch.randint(1, 90, (2 * core.bank.adapters, 1, 77), generator=torch.Generator().manual_seed(0))
    ids[:, :, -1] = encoder.inner.config.eos_token_id
    ids = ids.to(core.device)
    theirs, their_pooled = encode(encoder, ids, clip_skip)
    mine, pooled = core.texts[name](ids[:, 0])
    _compare(name, mine, theirs, ALLOWED[core.dtype])
    if pooled is not None and their_pooled is not None:
        _compare(f"pooled {name}", pooled, their_pooled, ALLOWED[core.dtype])


def _compare(name: str, mine: torch.Tensor, theirs: torch.Tensor, allowed: float) -> None:
    off = float((mine.float() - theirs.float()).norm() / theirs.float().norm())
    if not off <= allowed:  # NaN is not
        raise UnsupportedError(f"the {name} of this base and ours differ by {off:.1%}")
