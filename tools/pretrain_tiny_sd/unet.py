"""Stage two: UNet and text encoder together, on the captioned domain."""

from __future__ import annotations

import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

BATCH = 32
PEAK_LR = 1.5e-3
EMA = 0.998
EMPTY = 0.1
TEMPLATES = ("{}", "{}", "{}", "a picture of {}", "{} emoji", "an icon of a {}")


def train(
    unet: Any, text: Any, tokenizer: Any, schedule: Any,
    *, latents: tuple[torch.Tensor, torch.Tensor], names: list[tuple[str, ...]], minutes: float, work: Path, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Fit noise on scaled latents (mean, std: [n, 4, 16, 16]) until ``minutes`` are over; average weights are left in.

    The learning rate follows the clock, not a step count: a slower machine trains less but always lands at zero.
    """
    torch.manual_seed(seed)
    chooser = random.Random(seed)
    parameters = [*unet.parameters(), *text.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_LR, weight_decay=1e-3)
    average = [parameter.detach().clone() for parameter in parameters]
    alphas = schedule.alphas_cumprod
    begun, spoken, mean, step = time.monotonic(), 0.0, math.nan, 0
    while (part := (time.monotonic() - begun) / (minutes * 60)) < 1:
        rate = PEAK_LR * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(names), (BATCH,))
        clean = latents[0][rows] + latents[1][rows] * torch.randn(BATCH, *latents[0].shape[1:])
        noise, times = torch.randn_like(clean), torch.randint(1000, (BATCH,))
        level = alphas[times].view(-1, 1, 1, 1)
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        tokens = tokenizer(
            [_caption(names[row], chooser) for row in rows.tolist()],
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = unet(noisy, times, text(tokens).last_hidden_state).sample
        loss = F.mse_loss(predicted.float(), noise)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                average, parameters, 1 - min(EMA, (1 + step) / (10 + step))
            )
        mean = loss.item() if math.isnan(mean) else 0.99 * mean + 0.01 * loss.item()
        if time.monotonic() - spoken > 30:
            spoken = time.monotonic()
            pace = (spoken - begun) / step
            print(f"unet {step} {100 * part:.0f}% loss={mean:.4f} {pace:.3f} s/step", file=sys.stderr, flush=True)
            save_file({str(i): weight for i, weight in enumerate(average)}, work / "unet-average.safetensors")
    with torch.no_grad():
        for parameter, smooth in zip(parameters, average, strict=True):
            parameter.copy_(smooth)
    return {"steps": step, "loss": mean, "seconds": time.monotonic() - begun}


def restore(unet: Any, text: Any, file: Path) -> None:
    """Load the running average that ``train`` leaves behind every half minute."""
    with torch.no_grad():
        weights = load_file(file)
        for i, parameter in enumerate([*unet.parameters(), *text.parameters()]):
            parameter.copy_(weights[str(i)])


def _caption(names: tuple[str, ...], chooser: random.Random) -> str:
    if chooser.random() < EMPTY:
        return ""
    return chooser.choice(TEMPLATES).format(chooser.choice(names))
