"""The example teaches what it shows: pictures that were held out are predicted better, drawn ones come nearer.

``python -m bench.effect`` trains each network on junk as well, over more steps, and prints a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.engine.effect import EXAMPLES, Judge, learn, split
from tools.pretrain_tiny_sd import xl

FELL = pytest.mark.thorough(
    shown_by="tests/engine/test_training.py::test_the_loss_falls_when_a_few_pictures_are_learnt"
)
FEW: dict[str, Any] = {"max_train_steps": 20, "train_batch_size": 2, "unet_lr": 3e-3}
KINDS: dict[str, dict[str, Any]] = {
    "UNet and text encoder": {},
    "UNet only": {"network_train_unet_only": True},
    "LoCon": {"network_args": ["conv_dim=8", "conv_alpha=8"]},
    "DoRA": {"network_module": "lycoris.kohya", "network_args": ["preset=attn-mlp", "dora_wd=True"]},
}


def judged(base: Path, work: Path, kinds: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Held-out loss and distance from the style after each training, as shares of what they were before."""
    good, junk = split(work / "good"), split(work / "junk", junk=True)
    judge = Judge(base, good.held, times=(100, 400, 700), steps=8)
    loss, distance = judge(None, None)
    found = {}
    for name, root, keys in [("junk", junk.root, {}), *((name, good.root, keys) for name, keys in kinds.items())]:
        after = judge(*learn(base, root, work / name, **{**FEW, **keys}))
        found[name] = after[0] / loss, after[1] / distance
    return found


@FELL
def test_every_kind_of_network_learns_the_style_and_junk_teaches_nothing(tmp_path: Path) -> None:
    """Held-out loss falls by a fifth and pictures come nearer to the style; noise with other captions does neither."""
    found = judged(EXAMPLES / "tiny-sd", tmp_path, KINDS)
    junk = found.pop("junk")
    assert junk[0] > 0.8 and junk[1] > 1.5, found | {"junk": junk}
    for name, (loss, distance) in found.items():
        assert loss < 0.75 and distance < 0.98, (name, loss, distance)


@FELL
def test_so_does_a_base_of_sdxls_architecture(tmp_path: Path) -> None:
    """Two text encoders, pooled text and sizes; the base is the small one in that architecture, not trained in it."""
    found = judged(xl.untrained(EXAMPLES / "tiny-sd", tmp_path / "base"), tmp_path, {"SDXL": {}})
    assert found["junk"][0] > 0.9 and found["junk"][1] > 1.3, found
    assert found["SDXL"][0] < 0.8 and found["SDXL"][1] < 0.95, found
