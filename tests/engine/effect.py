"""What a training teaches, in numbers: loss on pictures it never saw, and how near drawn pictures come to a style.

Used by ``bench.effect`` and by the test that the example learns. Some pictures of the example train, some are held out;
noise and time steps of the held-out loss are fixed, so that files are compared on the same questions.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from gpurent_engine import lorafile, networks, proof, sampling
from gpurent_engine.buckets import Placement
from gpurent_engine.data import ImageItem
from gpurent_engine.diffusion import Diffusion, diffusion
from gpurent_engine.events import EventWriter
from gpurent_engine.families import loading
from gpurent_engine.families.parts import Parts
from gpurent_engine.latents import encode_all, pixels
from gpurent_engine.loop import Order, train
from gpurent_engine.reading import parse_spec
from gpurent_engine.spec import TrainSpec

EXAMPLES = Path(__file__).parents[2] / "examples"
SIDE, HELD, TIMES = 64, 6, (50, 200, 350, 500, 650, 800)


@dataclass(frozen=True)
class Split:
    """A folder to train on and pictures that it lacks."""

    root: Path
    held: tuple[ImageItem, ...]


def split(work: Path, *, junk: bool = False) -> Split:
    """The example in two parts; ``junk`` trains on noise with captions that belong to other pictures."""
    folder = next((EXAMPLES / "fluent-style" / "training_data").iterdir())
    files = sorted(folder.glob("*.png"))
    chooser = random.Random(1)
    chooser.shuffle(files)
    target = work / "data" / folder.name
    target.mkdir(parents=True)
    words = [one.with_suffix(".txt").read_text(encoding="utf-8").strip() for one in files]
    others = words[HELD:]
    chooser.shuffle(others)
    for i, file in enumerate(files[HELD:]):
        if junk:
            noise = torch.randint(0, 256, (SIDE, SIDE, 3), generator=torch.Generator().manual_seed(i))
            Image.fromarray(noise.to(torch.uint8).numpy()).save(target / file.name)
            (target / file.name).with_suffix(".txt").write_text(others[i], encoding="utf-8")
        else:
            shutil.copy(file, target)
            shutil.copy(file.with_suffix(".txt"), target)
    held = tuple(ImageItem(one, SIDE, SIDE, text, None) for one, text in zip(files[:HELD], words, strict=False))
    return Split(work / "data", held)


def learn(base: Path, root: Path, out: Path, **keys: Any) -> tuple[TrainSpec, Path]:
    """Train; return the configuration and the file."""
    spec = parse_spec({
        "pretrained_model_name_or_path": "base", "resolution": SIDE, "train_batch_size": 4, "max_train_steps": 120,
        "network_dim": 8, "network_alpha": 8, "unet_lr": 2e-3, "text_encoder_lr": 3e-4, "lr_scheduler": "cosine",
        "lr_warmup_steps": 5, "seed": 7, "output_name": "effect", "save_precision": "float", **keys,
    })  # fmt: skip
    with EventWriter(out / "events.jsonl") as writer:
        train(Order(spec, str(base), root, out), writer, threading.Event())
    return spec, out / "effect.safetensors"


@dataclass
class Judge:
    """Asks a base the same questions with a LoRA and without."""

    base: Path
    held: Sequence[ImageItem]
    times: Sequence[int] = TIMES
    """Time steps of the held-out loss."""
    steps: int = 10
    """Of the sampler."""

    def __call__(self, spec: TrainSpec | None, file: Path | None) -> tuple[float, float]:
        """Held-out loss, and distance of drawn pictures from the style; both without a LoRA if ``file`` is None."""
        parts = loading.load(str(self.base))
        process = diffusion(parts.alphas_cumprod, parts.found.prediction or "epsilon", torch.device("cpu"))
        if spec is not None and file is not None:
            tensors, meta = lorafile.read_tensors(file)
            proof.merge(lorafile.collect(tensors, meta), parts, networks.plan(parts, spec))
        return self._loss(parts, process), self._distance(parts, process)

    @torch.no_grad()
    def _loss(self, parts: Parts, process: Diffusion) -> float:
        place = Placement((SIDE, SIDE), (SIDE, SIDE))
        posteriors = encode_all(parts.vae, self.held, [place] * len(self.held), torch.device("cpu"), batch_size=4)
        draw = torch.Generator().manual_seed(0)
        clean = torch.stack([one.mean for one in posteriors]) * parts.vae_scale
        hidden, extra = sampling.condition(parts, [one.caption for one in self.held], SIDE, None)
        total = 0.0
        for step in self.times:
            noise = torch.randn(clean.shape, generator=draw)
            times = torch.full((len(clean),), step)
            said = parts.unet(process.noised(clean, noise, times), times, hidden, added_cond_kwargs=extra).sample
            total += float(((said - process.target(clean, noise, times)) ** 2).mean())
        return total / len(self.times)

    def _distance(self, parts: Parts, process: Diffusion) -> float:
        place = Placement((SIDE, SIDE), (SIDE, SIDE))
        wanted = torch.stack([statistics(pixels(one, place) / 2 + 0.5) for one in self.held])
        drawn = [
            sampling.draw(parts, process, one.caption, side=SIDE, seed=i, steps=self.steps, guidance=3.0)
            for i, one in enumerate(self.held)
        ]
        got = torch.stack([statistics(one) for one in drawn])
        return float(((got.mean(0) - wanted.mean(0)) / wanted.std(0)).norm())


def statistics(picture: torch.Tensor) -> torch.Tensor:
    """Of one picture ``[3, h, w]``: mean and spread of each colour, and how much neighbours differ (shading)."""
    across = (picture[:, :, 1:] - picture[:, :, :-1]).abs().mean()
    down = (picture[:, 1:] - picture[:, :-1]).abs().mean()
    return torch.cat([picture.mean((1, 2)), picture.std((1, 2)), torch.stack([across, down])])
