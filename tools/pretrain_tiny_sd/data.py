"""Pictures and captions from two npm packages: Noto emoji (the base) and Fluent 3D (the LoRA example)."""

from __future__ import annotations

import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

NOTO = "emoji-datasource-google@16.0.0"
FLUENT = "@lobehub/fluent-emoji-3d@1.1.0"
SIZE = 64

# The domain is narrow on purpose: a four-million-parameter UNet draws few things well or many things badly.
GROUPS = frozenset((
    "cat-face", "heart", "face-affection", "face-concerned", "face-costume", "face-glasses", "face-hat",
    "face-negative", "face-neutral-skeptical", "face-sleepy", "face-smiling", "face-tongue", "face-unwell",
    "food-fruit", "food-vegetable", "food-sweet",
))  # fmt: skip
EXTRA = frozenset(
    "frog hatching_chick baby_chick chicken penguin owl ladybug octopus fish tropical_fish whale turtle "
    "mouse cow tiger rabbit cat horse monkey_face dog pig hamster wolf polar_bear bear panda_face koala lion_face "
    "unicorn_face fox_face tulip rose sunflower mushroom cactus four_leaf_clover hamburger pizza fries egg "
    "rainbow sunny star full_moon crescent_moon fire droplet snowflake snowman_without_snow cloud balloon gift "
    "soccer basketball baseball bell key crown gem bomb bulb rocket hotdog taco popcorn sandwich coffee".split()
)


@dataclass(frozen=True)
class Picture:
    """One emoji: its file in the package and every name it goes by."""

    key: str
    path: Path
    names: tuple[str, ...]


def fetch(package: str, cache: Path) -> Path:
    """Unpack an npm package below ``cache`` once; return its folder."""
    folder = cache / package.replace("/", "_").replace("@", "_").strip("_")
    if not (folder / "package").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        name = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.split()[-1]
        with tarfile.open(folder / name) as archive:
            archive.extractall(folder, filter="data")
    return folder / "package"


def noto(package: Path) -> tuple[list[Picture], list[Path]]:
    """Return the captioned domain, and every picture but flags (the autoencoder learns from all)."""
    domain, everything = [], []
    for entry in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        if not entry.get("has_img_google") or entry["category"] == "Flags":
            continue
        path = package / "img" / "google" / "64" / entry["image"]
        everything.append(path)
        if entry["subcategory"] in GROUPS or entry["short_name"] in EXTRA:
            domain.append(Picture(entry["short_name"], path, names_of(entry)))
    return domain, everything


def names_of(entry: dict[str, object]) -> tuple[str, ...]:
    """Official name first, then the short names people type; lower case, plain words."""
    official = str(entry["name"]).lower().replace("heavy black heart", "red heart")
    if entry["short_name"] == "heart":
        official = "red heart"
    short = entry["short_names"]
    assert isinstance(short, list)
    spoken = [str(name).replace("_", " ").replace("-", " ") for name in short]
    return tuple(dict.fromkeys((official, *spoken)))


def load(path: Path, size: int = SIZE) -> Image.Image:
    """Open a picture on white."""
    picture = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(white, picture).convert("RGB")
    return flat.resize((size, size), Image.Resampling.LANCZOS) if flat.size != (size, size) else flat


def tensor(paths: list[Path]) -> torch.Tensor:
    """Stack pictures: float32 [n, 3, 64, 64] in -1…1."""
    stack = np.stack([np.asarray(load(path)) for path in paths])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1.0
