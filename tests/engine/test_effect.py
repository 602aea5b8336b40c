"""The example teaches what it shows: pictures that were held out are predicted better, drawn ones come nearer.

``python -m bench.effect`` measures more kinds of networks over more steps; its table is in ``docs/benchmarks.md``.
"""

from __future__ import annotations

from pathlib import Path

from tests.engine.effect import EXAMPLES, Judge, learn, split

STEPS = 40


def test_a_training_teaches_and_a_training_on_junk_does_not(tmp_path: Path) -> None:
    """Held-out loss falls by a third and pictures come nearer to the style; noise with other captions does neither."""
    base = EXAMPLES / "tiny-sd"
    good, junk = split(tmp_path / "good"), split(tmp_path / "junk", junk=True)
    judge = Judge(base, good.held)
    loss, distance = judge(None, None)
    taught = judge(*learn(base, good.root, tmp_path / "a", max_train_steps=STEPS))
    spoilt = judge(*learn(base, junk.root, tmp_path / "b", max_train_steps=STEPS))
    assert taught[0] < 0.67 * loss and taught[1] < 0.95 * distance
    assert spoilt[0] > 0.85 * loss and spoilt[1] > 1.5 * distance
