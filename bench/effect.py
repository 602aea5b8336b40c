"""What trainings on the example teach, against a training on junk. ``python -m bench.effect``

For each kind of network: loss on six pictures that were held out, and distance of drawn pictures from the style, both
relative to the base without a LoRA. Below 1 is better. ``junk`` trains the same number of steps on noise with captions
of other pictures.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from tests.engine.effect import EXAMPLES, Judge, learn, split

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "UNet and text encoder": ("tiny-sd", {}),
    "UNet only": ("tiny-sd", {"network_train_unet_only": True}),
    "SDXL, UNet only": ("tiny-sdxl", {"network_train_unet_only": True}),
    "SDXL, UNet and both text encoders": ("tiny-sdxl", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=240)
    options = parser.parse_args()
    print("| network | data | held-out loss | distance from the style |\n| --- | --- | --- | --- |")
    for name, (base, keys) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            good, junk = split(work / "good"), split(work / "junk", junk=True)
            judge = Judge(EXAMPLES / base, good.held)
            loss, distance = judge(None, None)
            for label, data in (("example", good), ("junk", junk)):
                spec, file = learn(EXAMPLES / base, data.root, work / label, **keys, max_train_steps=options.steps)
                after = judge(spec, file)
                row = f"{after[0] / loss:.3f} | {after[1] / distance:.2f}"
                print(f"| {name} | {label} | {row} |", flush=True)


if __name__ == "__main__":
    main()
