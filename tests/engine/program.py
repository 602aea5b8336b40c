"""The engine as a program of its own, forked from a process that has imported torch: that alone takes six seconds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.warm import client as warm
from tests.warm.client import Command, Nest

NEST = Nest(
    preloaded=(
        "gpurent_engine.commands", "gpurent_engine.loop", "gpurent_engine.setup",
        "diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl",
        "diffusers.loaders.lora_pipeline", "transformers.models.clip.modeling_clip", "peft",
    )
)  # fmt: skip
MAIN = "gpurent_engine.__main__:main"


def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return warm.run(
        ["gpurent_engine", *arguments], cwd=cwd or Path.cwd(), env=os.environ, main=MAIN, timeout=300, nest=NEST
    )


def start(*arguments: str, log: Path) -> Command:
    """Start it; what it prints goes to ``log``."""
    with log.open("w", encoding="utf-8") as out:
        return warm.start(
            ["gpurent_engine", *arguments], cwd=log.parent, env=os.environ, main=MAIN, stdin=subprocess.DEVNULL,
            stdout=out.fileno(), stderr=out.fileno(), nest=NEST,
        )  # fmt: skip
