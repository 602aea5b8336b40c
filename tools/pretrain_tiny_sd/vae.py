"""Stage one: the autoencoder, on every picture of the set."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tools.pretrain_tiny_sd import models

BATCH = 16
PEAK_LR = 2e-3
KL = 1e-5 * 100 / (4 * 16 * 16)


def train(pictures: torch.Tensor, steps: int, work: Path, seed: int) -> Any:
    """Fit pixels [n, 3, 64, 64] with L1, L1 of differences and a light KL; return the autoencoder, scaled."""
    torch.manual_seed(seed)
    vae = models.autoencoder()
    done = work / "vae.safetensors"
    if done.exists():
        vae.load_state_dict(load_file(done))
        return _scaled(vae, pictures)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=PEAK_LR, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    begun, mean = time.monotonic(), math.nan
    for step in range(1, steps + 1):
        batch = pictures[torch.randint(len(pictures), (BATCH,), generator=generator)]
        if torch.rand((), generator=generator) < 0.5:
            batch = batch.flip(-1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            drawn = vae.decode(posterior.sample()).sample.float()
        loss = _distance(drawn, batch) + KL * posterior.kl().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            pace = (time.monotonic() - begun) / step
            print(f"vae {step}/{steps} loss={mean:.4f} {pace:.3f} s/step", file=sys.stderr, flush=True)
    save_file(vae.state_dict(), done)
    return _scaled(vae, pictures)


def _distance(drawn: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    across = F.l1_loss(drawn.diff(dim=-1), true.diff(dim=-1))
    down = F.l1_loss(drawn.diff(dim=-2), true.diff(dim=-2))
    return F.l1_loss(drawn, true) + across + down


@torch.no_grad()
def encode(vae: Any, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of the latents, unscaled: [n, 4, 16, 16] each."""
    posteriors = [vae.encode(chunk).latent_dist for chunk in torch.split(pictures, 64)]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])


def _scaled(vae: Any, pictures: torch.Tensor) -> Any:
    vae.eval().requires_grad_(False)
    mean, _ = encode(vae, pictures)
    vae.register_to_config(scaling_factor=round(1.0 / mean.std().item(), 5))
    return vae
