"""The same training written by hand with diffusers and peft alone, as a second opinion. Imports nothing of the engine.

It states the whole contract of the engine's randomness: the global generator initialises the LoRA layers, UNet first;
one CPU generator draws posterior noise, diffusion noise, timesteps for each batch; ``Random(seed + epoch)`` shuffles.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import numpy as np
import torch
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from PIL import Image

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults

UNET = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def losses(base: Path, folder: Path, repeats: int, *, size: int, batch: int, rank: int, alpha: int, unet_lr: float,
           text_lr: float, seed: int, steps: int, scheduler: str, warmup: int, total: int) -> list[float]:  # fmt: skip
    """Loss of each of the first ``steps`` steps; all pictures are square and have ``size`` pixels a side."""
    pipe: Any = diffusers.StableDiffusionPipeline.from_pretrained(base, safety_checker=None, torch_dtype=torch.float32)
    vae, unet, text = pipe.vae.eval(), pipe.unet.eval(), pipe.text_encoder.eval()
    ddpm: Any = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    files = sorted(folder.glob("*.png"))
    arrays = [
        np.asarray(Image.open(file).convert("RGB").resize((size, size), Image.Resampling.LANCZOS)) for file in files
    ]
    pixels = torch.stack([torch.tensor(array).permute(2, 0, 1).float() / 127.5 - 1 for array in arrays])
    captions = [file.with_suffix(".txt").read_text().strip() for file in files]
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    torch.manual_seed(seed)
    for model, names in ((unet, UNET), (text, TEXT)):
        model.requires_grad_(False)
        model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, init_lora_weights=True))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in m.parameters() if p.requires_grad], "lr": lr}
        for m, lr in ((unet, unet_lr), (text, text_lr))
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    rates = get_scheduler(scheduler, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    draw = torch.Generator().manual_seed(seed)
    found: list[float] = []
    epoch = 0
    while len(found) < steps:
        shuffle = random.Random(seed + epoch)
        order = [i for i in range(len(files)) for _ in range(repeats)]
        shuffle.shuffle(order)
        batches = [order[i : i + batch] for i in range(0, len(order), batch)]
        shuffle.shuffle(batches)
        for members in batches[: steps - len(found)]:
            mean, std = posterior.mean[members], posterior.std[members]
            clean = (mean + std * torch.randn(mean.shape, generator=draw)) * vae.config.scaling_factor
            noise = torch.randn(mean.shape, generator=draw)
            times = torch.randint(0, 1000, (len(members),), generator=draw)
            words = pipe.tokenizer(
                [captions[i] for i in members],
                padding="max_length",
                truncation=True,
                max_length=77,
                return_tensors="pt",
            )
            hidden = text(words.input_ids).last_hidden_state
            loss = torch.nn.functional.mse_loss(unet(ddpm.add_noise(clean, noise, times), times, hidden).sample, noise)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
            found.append(loss.item())
        epoch += 1
    return found
