"""``python -m tools.pretrain_tiny_sd.xl --out examples/tiny-sdxl``: the small base again, in SDXL's architecture.

It begins as the small Stable Diffusion with what SDXL adds switched off (zero weights), and then learns for half an
hour on two cores to predict what that one predicts, with both text encoders, pooled text and sizes in use.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import torch
import torch.nn.functional as F
import transformers as typed_transformers

from tools.pretrain_tiny_sd import data, vae
from tools.pretrain_tiny_sd.unet import EMA, EMPTY, TEMPLATES

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults
transformers: Any = typed_transformers
SECOND, TIME, BATCH, PEAK_LR = 64, 16, 16, 1e-3


def unet(small: Any) -> Any:
    """The small UNet with linear projections, twice as many transformers below, room for more text, and conditions."""
    config = {
        **small.config, "use_linear_projection": True, "transformer_layers_per_block": [1, 2],
        "cross_attention_dim": small.config.cross_attention_dim + SECOND, "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME, "projection_class_embeddings_input_dim": SECOND + 6 * TIME,
    }  # fmt: skip
    large = diffusers.UNet2DConditionModel.from_config(config)
    theirs = small.state_dict()
    with torch.no_grad():
        for name, mine in large.state_dict().items():
            if name not in theirs:
                # an added transformer block adds nothing at first, and neither does the added embedding
                if name.endswith((".to_out.0.weight", ".to_out.0.bias", ".ff.net.2.weight", ".ff.net.2.bias")):
                    mine.zero_()
                if name.startswith("add_embedding.linear_2"):
                    mine.zero_()
                continue
            its = theirs[name].float()
            its = its.flatten(1) if its.dim() == 4 and mine.dim() == 2 else its
            if its.shape != mine.shape:  # keys and values over the wider text
                its = F.pad(its, (0, mine.shape[1] - its.shape[1]))
            mine.copy_(its)
    return large


def encoders(small: Any, tokenizer: Any) -> tuple[Any, Any]:
    """The small encoder with a layer more, since SDXL takes the last but one; and a new one with a projection."""
    config = copy.deepcopy(small.config)
    config.num_hidden_layers += 1
    first = transformers.CLIPTextModel(config)
    first.load_state_dict(small.float().state_dict(), strict=False)
    second = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=SECOND, intermediate_size=4 * SECOND, num_hidden_layers=3,
            num_attention_heads=2, max_position_embeddings=77, projection_dim=SECOND, hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
        )
    )  # fmt: skip
    return first, second


def condition(first: Any, second: Any, tokens: torch.Tensor, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states side by side and pooled text, as SDXL has them; the second encoder's captions are filled with 0."""
    at = (tokens == end).int().argmax(1)
    zeros = torch.where(torch.arange(tokens.shape[1])[None] > at[:, None], 0, tokens)
    a, b = first(tokens, output_hidden_states=True), second(zeros, output_hidden_states=True)
    return torch.cat([a.hidden_states[-2], b.hidden_states[-2]], -1), b.text_embeds


def train(parts: dict[str, Any], teacher: Any, tokenizer: Any, latents: Any, *, names: Any, steps: int) -> float:
    """Follow the teacher for ``steps``; the average weights are left in."""
    torch.manual_seed(0)
    chooser = random.Random(0)
    modules = [parts["unet"], parts["text_encoder"], parts["text_encoder_2"]]
    parameters = [one for module in modules for one in module.train().parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_LR, weight_decay=1e-3)
    average = [one.detach().clone() for one in parameters]
    alphas = teacher.scheduler.alphas_cumprod
    spoken, mean = 0.0, math.nan
    for step in range(steps):
        share = step / steps
        for group in optimiser.param_groups:
            group["lr"] = PEAK_LR * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        rows = torch.randint(len(names), (BATCH,))
        clean = latents[0][rows] + latents[1][rows] * torch.randn(BATCH, *latents[0].shape[1:])
        noise, times = torch.randn_like(clean), torch.randint(1000, (BATCH,))
        level = alphas[times].view(-1, 1, 1, 1)
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        words = [
            "" if chooser.random() < EMPTY else chooser.choice(TEMPLATES).format(chooser.choice(names[row]))
            for row in rows.tolist()
        ]
        tokens = tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            wanted = teacher.unet(noisy, times, teacher.text_encoder(tokens).last_hidden_state).sample
        hidden, pooled = condition(parts["text_encoder"], parts["text_encoder_2"], tokens, tokenizer.eos_token_id)
        sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * BATCH)
        extra = {"text_embeds": pooled, "time_ids": sizes}
        loss = F.mse_loss(parts["unet"](noisy, times, hidden, added_cond_kwargs=extra).sample, wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                average, parameters, 1 - min(EMA, (1 + step) / (10 + step))
            )
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        if time.monotonic() - spoken > 30:
            spoken = time.monotonic()
            print(f"{step} {100 * share:.0f}% distance={mean:.5f}", file=sys.stderr, flush=True)
    with torch.no_grad():
        for one, smooth in zip(parameters, average, strict=True):
            one.copy_(smooth)
    return mean


def untrained(base: Path, out: Path) -> Path:
    """Save the small base in SDXL's architecture as it is before it learns: it predicts much what that one predicts."""
    small = diffusers.StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32)
    torch.manual_seed(0)
    first, second = encoders(small.text_encoder, small.tokenizer)
    pipeline = diffusers.StableDiffusionXLPipeline(
        unet=unet(small.unet), text_encoder=first, text_encoder_2=second, vae=small.vae, tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer, scheduler=small.scheduler, force_zeros_for_empty_prompt=False,
    )  # fmt: skip
    pipeline.to(dtype=torch.float16).save_pretrained(out)
    return out


def main() -> None:
    """Build, train, save in fp16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=Path("examples/tiny-sd"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "gpurent-tiny-sd")
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    teacher = diffusers.StableDiffusionPipeline.from_pretrained(options.base, torch_dtype=torch.float32)
    domain, _ = data.noto(data.fetch(data.NOTO, options.work))
    mean, std = vae.encode(teacher.vae, data.tensor([picture.path for picture in domain]))
    scale = teacher.vae.config.scaling_factor
    tokenizer = teacher.tokenizer
    first, second = encoders(teacher.text_encoder, tokenizer)
    parts = {
        "unet": unet(teacher.unet), "text_encoder": first, "text_encoder_2": second, "vae": teacher.vae,
        "tokenizer": tokenizer, "tokenizer_2": tokenizer, "scheduler": teacher.scheduler,
    }  # fmt: skip
    names = [picture.names for picture in domain]
    distance = train(parts, teacher, tokenizer, (mean * scale, std * scale), names=names, steps=options.steps)
    pipeline = diffusers.StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=False)
    pipeline.to(dtype=torch.float16).save_pretrained(options.out, safe_serialization=True)
    print(json.dumps({"distance": distance}))


if __name__ == "__main__":
    main()
