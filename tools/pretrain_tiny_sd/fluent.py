"""``python -m tools.pretrain_tiny_sd.fluent --out examples/fluent-style``: thirty Fluent 3D pictures with captions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.pretrain_tiny_sd import data

TRIGGER = "fluent style"
CHOSEN = (
    "smiley grin heart_eyes sunglasses cry sleeping nerd_face partying_face ghost alien robot_face "
    "smile_cat heart blue_heart green_heart apple lemon banana strawberry watermelon cherries avocado carrot corn "
    "dog pig panda_face fox_face frog doughnut"
).split()


def main() -> None:
    """Write ``training_data/10_fluent3d``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "gpurent-tiny-sd")
    options = parser.parse_args()
    noto, fluent = data.fetch(data.NOTO, options.work), data.fetch(data.FLUENT, options.work)
    entries = {entry["short_name"]: entry for entry in json.loads((noto / "emoji.json").read_text(encoding="utf-8"))}
    folder = options.out / "training_data" / "10_fluent3d"
    folder.mkdir(parents=True, exist_ok=True)
    for name in CHOSEN:
        entry = entries[name]
        code = entry["unified"].lower()
        names = (f"{code}.webp", f"{code.removesuffix('-fe0f')}.webp")
        source = next(path for path in (fluent / "assets" / name for name in names) if path.exists())
        data.load(source).save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(f"{data.names_of(entry)[0]}, {TRIGGER}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
