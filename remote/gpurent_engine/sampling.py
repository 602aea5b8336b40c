"""Draw a picture from the parts in memory, without diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from gpurent_engine.diffusion import Diffusion
from gpurent_engine.families.parts import Parts
from gpurent_engine.text import encode, tokenise


def condition(
    parts: Parts, captions: Sequence[str], side: int, clip_skip: int | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
    """Hidden states and, for SDXL, pooled text and sizes of pictures of ``side`` pixels that were not cropped."""
    device = parts.unet.device
    hidden, pooled = [], None
    for encoder in parts.text_encoders:
        states, its_pooled = encode(encoder, tokenise(encoder, captions).to(device), clip_skip)
        hidden.append(states)
        pooled = pooled if its_pooled is None else its_pooled
    if not parts.family.size_conditioning or pooled is None:
        return torch.cat(hidden, -1), None
    sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(captions), dtype=pooled.dtype, device=device)
    return torch.cat(hidden, -1), {"text_embeds": pooled, "time_ids": sizes}


@torch.no_grad()
def draw(
    parts: Parts, process: Diffusion, caption: str, *, side: int, seed: int, clip_skip: int | None = None,
    steps: int = 12, guidance: float = 5.0,
) -> torch.Tensor:  # fmt: skip
    """One picture, float32 ``[3, side, side]`` in 0…1, by DDIM (Song et al. 2021, equation 12 with η = 0).

    Args:
        parts: UNet and text encoders on the device, in any precision; the VAE wherever it is.
        process: of the base.
        caption: what to draw; the empty caption is what guidance moves away from (Ho & Salimans 2022).
        side: pixels.
        seed: of the noise that it starts from.
        clip_skip: as in training.
        steps: of the sampler.
        guidance: scale.
    """
    unet, device, dtype = parts.unet, parts.unet.device, parts.unet.dtype
    edge = side // parts.vae_factor
    x = torch.randn((1, 4, edge, edge), generator=torch.Generator().manual_seed(seed)).to(device)
    hidden, extra = condition(parts, ["", caption], side, clip_skip)
    times = torch.linspace(process.steps - 1, 0, steps + 1).round().long().tolist()
    for now, then in pairwise(times):
        at = torch.tensor([now, now], device=device)
        said = unet(torch.cat([x, x]).to(dtype), at, hidden, added_cond_kwargs=extra).sample.float()
        empty, wanted = said.chunk(2)
        said = empty + guidance * (wanted - empty)
        a, b = process.signal[now], process.noise[now]
        # what the prediction says of the picture and of the noise in x = a · clean + b · noise
        if process.prediction == "epsilon":
            noise = said
            clean = (x - b * noise) / a.clamp(min=1e-4)
        else:
            clean = a * x - b * said
            noise = b * x + a * said
        x = process.signal[then] * clean + process.noise[then] * noise
    pixels = parts.vae.decode((x / parts.vae_scale).to(parts.vae.device, parts.vae.dtype)).sample
    picture: torch.Tensor = (pixels[0].float() / 2 + 0.5).clamp(0, 1).cpu()
    return picture
