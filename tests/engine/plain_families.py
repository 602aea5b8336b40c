"""SDXL and v-prediction written by hand with diffusers, transformers and peft alone. Imports nothing of the engine.

The contract of randomness is that of ``plain_loop``; the text encoders are initialised one after the other.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import numpy as np
import torch
from peft import LoraConfig
from PIL import Image
from tests.engine.plain_loop import TEXT, UNET

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults


def losses(
    base: Path, folder: Path, *, size: int, batch: int, rank: int, alpha: int, unet_lr: float, text_lrs: list[float],
    seed: int, steps: int, prediction: str, snr_gamma: float | None = None,
) -> list[float]:  # fmt: skip
    """Loss of each step; pictures are square and have ``size`` pixels a side, each comes once an epoch."""
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(base)
    large = hasattr(pipe, "text_encoder_2")
    zero_padded = not large and pipe.unet.config.use_linear_projection
    encoders = [(pipe.tokenizer, pipe.text_encoder)]
    if large:
        encoders.append((pipe.tokenizer_2, pipe.text_encoder_2))
    ddpm: Any = diffusers.DDPMScheduler.from_config(pipe.scheduler.config, prediction_type=prediction)
    pixels, captions = _pictures(folder, size)
    with torch.no_grad():
        posterior = pipe.vae.eval().encode(pixels).latent_dist
    torch.manual_seed(seed)
    groups: list[dict[str, Any]] = []
    rates = [unet_lr, *text_lrs]
    for model, names, rate in zip(
        (pipe.unet, *(model for _, model in encoders)), (UNET, TEXT, TEXT), rates, strict=False
    ):
        model.requires_grad_(False)
        if rate:
            model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, init_lora_weights=True))
            groups.append({"params": [p for p in model.parameters() if p.requires_grad], "lr": rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    draw = torch.Generator().manual_seed(seed)
    found: list[float] = []
    epoch = 0
    while len(found) < steps:
        shuffle = random.Random(seed + epoch)
        order = list(range(len(captions)))
        shuffle.shuffle(order)
        batches = [order[i : i + batch] for i in range(0, len(order), batch)]
        shuffle.shuffle(batches)
        for members in batches[: steps - len(found)]:
            mean, std = posterior.mean[members], posterior.std[members]
            clean = (mean + std * torch.randn(mean.shape, generator=draw)) * pipe.vae.config.scaling_factor
            noise = torch.randn(mean.shape, generator=draw)
            times = torch.randint(0, 1000, (len(members),), generator=draw)
            hidden, extra = _text(encoders, [captions[i] for i in members], size, large, zero_padded)
            said = pipe.unet(ddpm.add_noise(clean, noise, times), times, hidden, added_cond_kwargs=extra).sample
            target = noise if prediction == "epsilon" else ddpm.get_velocity(clean, noise, times)
            each = ((said - target) ** 2).mean(dim=(1, 2, 3))
            if snr_gamma is not None:
                snr = ddpm.alphas_cumprod[times] / (1 - ddpm.alphas_cumprod[times])
                each = each * torch.minimum(snr, torch.tensor(snr_gamma)) / (snr + (prediction == "v_prediction"))
            loss = each.mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        epoch += 1
    return found


def _pictures(folder: Path, size: int) -> tuple[torch.Tensor, list[str]]:
    files = sorted(folder.glob("*.png"))
    opened = [Image.open(one).convert("RGB").resize((size, size), Image.Resampling.LANCZOS) for one in files]
    arrays = [torch.tensor(np.asarray(one)).permute(2, 0, 1).float() / 127.5 - 1 for one in opened]
    return torch.stack(arrays), [one.with_suffix(".txt").read_text().strip() for one in files]


def _text(
    encoders: Any, words: list[str], size: int, large: bool, zero_padded: bool
) -> tuple[torch.Tensor, dict[str, Any] | None]:
    """SDXL: last but one layer of both encoders, pooled text of the second, sizes of a picture that is not cropped."""
    states = []
    pooled = None
    for number, (tokenizer, model) in enumerate(encoders):
        ids = tokenizer(words, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        if number == 1 or zero_padded:  # OpenCLIP's vocabulary fills up with 0
            end = (ids == tokenizer.eos_token_id).int().argmax(1)
            ids = torch.where(torch.arange(77)[None] > end[:, None], 0, ids)
        out = model(ids, output_hidden_states=True)
        states.append(out.hidden_states[-2] if large else out.last_hidden_state)
        pooled = out.text_embeds if number == 1 else pooled
    if not large:
        return states[0], None
    sizes = torch.tensor([[size, size, 0, 0, size, size]] * len(words), dtype=torch.float32)
    return torch.cat(states, -1), {"text_embeds": pooled, "time_ids": sizes}
