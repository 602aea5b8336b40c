"""What trainings on the example teach, against a training on junk. ``python -m bench.effect``

For each kind of network: loss on six pictures that were held out, and distance of drawn pictures from the style, both
relative to the base without a LoRA. Below 1 is better. ``junk`` trains the same number of steps on noise with captions
of other pictures. The base of SDXL's architecture is built from the small one, and not trained in it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from tests.engine import test_effect
from tests.engine.effect import EXAMPLES, Judge, learn, split
from tools.pretrain_tiny_sd import xl

KINDS: dict[str, tuple[bool, dict[str, Any]]] = {
    **{name: (False, keys) for name, keys in test_effect.KINDS.items()},
    "SDXL, UNet only": (True, {"network_train_unet_only": True}),
    "SDXL, UNet and both text encoders": (True, {}),
}
"""Whether SDXL's architecture, and the configuration."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=240)
    options = parser.parse_args()
    print("| network | data | held-out loss | distance from the style |\n| --- | --- | --- | --- |")
    for name, (sdxl, keys) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            good, junk = split(work / "good"), split(work / "junk", junk=True)
            base = EXAMPLES / "tiny-sd"
            base = xl.untrained(base, work / "base") if sdxl else base
            judge = Judge(base, good.held)
            loss, distance = judge(None, None)
            for label, data in (("example", good), ("junk", junk)):
                spec, file = learn(base, data.root, work / label, **keys, max_train_steps=options.steps)
                after = judge(spec, file)
                row = f"{after[0] / loss:.3f} | {after[1] / distance:.2f}"
                print(f"| {name} | {label} | {row} |", flush=True)


if __name__ == "__main__":
    main()
