"""``python -m tools.pretrain_tiny_sd --out examples/tiny-sd``: about an hour on two cores."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import torch

from tools.pretrain_tiny_sd import data, models, unet, vae

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults


def main() -> None:
    """Fetch, train both stages, save."""
    options = _options()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    domain, everything = data.noto(data.fetch(data.NOTO, work))
    print(f"{len(domain)} captioned pictures of {len(everything)}", file=sys.stderr)
    autoencoder = vae.train(data.tensor(everything), options.vae_steps, work, options.seed)
    if options.vae_only:
        return
    names = [picture.names for picture in domain]
    captions = [template.format(name) for group in names for name in group for template in unet.TEMPLATES]
    tokenizer = models.make_tokenizer([*captions, "fluent3d style"], work / "tokenizer")
    mean, std = vae.encode(autoencoder, data.tensor([picture.path for picture in domain]))
    scale = autoencoder.config.scaling_factor
    torch.manual_seed(options.seed)
    denoiser, text, schedule = models.unet(), models.text_encoder(tokenizer), models.scheduler()
    if options.restore:
        unet.restore(denoiser, text, work / "unet-average.safetensors")
        facts = {}
    else:
        latents = (mean * scale, std * scale)
        facts = unet.train(
            denoiser,
            text,
            tokenizer,
            schedule,
            latents=latents,
            names=names,
            minutes=options.minutes,
            work=work,
            seed=options.seed,
        )
    save(options.out, autoencoder, text, tokenizer, denoiser=denoiser, schedule=schedule)
    print(json.dumps(facts))


def save(out: Path, autoencoder: Any, text: Any, tokenizer: Any, *, denoiser: Any, schedule: Any) -> None:
    """Write the diffusers folder in fp16."""
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder, text_encoder=text, tokenizer=tokenizer, unet=denoiser, scheduler=schedule,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(dtype=torch.float16).save_pretrained(out, safe_serialization=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    cache = Path.home() / ".cache" / "gpurent-tiny-sd"
    parser.add_argument("--work", type=Path, default=cache, help="downloads and half-done weights")
    parser.add_argument("--vae-steps", type=int, default=4000)
    parser.add_argument("--vae-only", action="store_true")
    parser.add_argument("--minutes", type=float, default=50, help="for UNet and text encoder")
    parser.add_argument("--restore", action="store_true", help="save the last running average of an unfinished run")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
