"""A switch changes how fast a training is and never what is learnt: whole runs of the engine, drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.engine import tiny_families, tiny_model
from tests.engine.run import Told, run, spec
from tests.thorough import often

FAMILIES = ("sd15", "sd2", "sdxl")
TOLERANCE = 1e-5
"""Of losses, relative; float32."""
AFTER_ADAM = 2e-4
"""Of trained numbers: AdamW divides by the gradient's size, and so enlarges the rounding of tiny gradients."""


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: tiny_families.build(folder / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.pictures(tmp_path_factory.mktemp("pictures"), 5, size=40)


def level(told: Told) -> str:
    return str(told.of("stepper")[0]["level"])


def same(mine: Path, theirs: Path) -> None:
    """All tensors together, relative."""
    a, b = load_file(mine), load_file(theirs)
    assert a.keys() == b.keys()
    square = sum(float((a[name] - b[name]).double().square().sum()) for name in b)
    whole = sum(float(one.double().square().sum()) for one in b.values())
    assert (square / whole) ** 0.5 < AFTER_ADAM


KEYS: dict[str, st.SearchStrategy[Any]] = {
    "train_batch_size": st.sampled_from((1, 2, 3)),
    "gradient_accumulation_steps": st.sampled_from((1, 2)),
    "min_snr_gamma": st.sampled_from((None, 5.0)),
    "noise_offset": st.sampled_from((0.0, 0.1)),
    "max_grad_norm": st.sampled_from((0.0, 1.0)),
    "network_dim": st.sampled_from((3, 8)),
    "network_train_unet_only": st.booleans(),
    "gradient_checkpointing": st.booleans(),
    "weight_decay": st.sampled_from((0.0, 0.1)),
    "clip_skip": st.sampled_from((None, 2)),
    "max_token_length": st.sampled_from((None, 150)),
    "text_encoder_lr": st.sampled_from((1e-3, 0.0)),
    "lr_scheduler": st.sampled_from(("constant", "cosine")),
}


@pytest.mark.parametrize("examples", often([4, 16], [4]))
def test_a_switch_never_changes_what_is_learnt(
    bases: dict[str, Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    @settings(max_examples=examples)
    @given(
        family=st.sampled_from(FAMILIES),
        wanted=st.sampled_from(("merged", "kernels", "stacked", "stacked+feed-forward")),
        keys=st.fixed_dictionaries({}, optional=KEYS),
    )
    def learns_the_same(family: str, wanted: str, keys: dict[str, Any]) -> None:
        trained_the_same(bases, pictures, tmp_path_factory.mktemp("run"), family, wanted, keys)

    learns_the_same()


def trained_the_same(
    bases: dict[str, Path], pictures: Path, out: Path, family: str, wanted: str, keys: dict[str, Any]
) -> None:
    the_spec = spec(**{"max_train_epochs": None, "max_train_steps": 4, **keys}, v2=family == "sd2" or None)
    plain = run(the_spec, bases[family], pictures, out / "plain", step="plain")
    fast = run(the_spec, bases[family], pictures, out / "fast", step=wanted)
    assert (level(plain), level(fast).split("+")[0]) == ("plain", wanted.split("+")[0])
    assert torch.allclose(torch.tensor(fast.losses), torch.tensor(plain.losses), rtol=TOLERANCE, atol=TOLERANCE)
    same(out / "fast" / "disc.safetensors", out / "plain" / "disc.safetensors")


@pytest.mark.parametrize(
    ("first", "second"),
    often([("plain", "stacked"), ("stacked", "plain"), ("stacked", "stacked")], [("stacked", "plain")]),
)
def test_a_run_may_go_on_with_another_step(
    bases: dict[str, Path], pictures: Path, tmp_path: Path, first: str, second: str
) -> None:
    """States carry names, so that a machine without a compiler goes on where one with it has stopped."""
    keys = {"max_train_epochs": None, "train_batch_size": 1, "weight_decay": 0.1, "max_train_steps": 6}
    straight = run(spec(**keys), bases["sdxl"], pictures, tmp_path / "straight", step=second)
    stop = tmp_path / "stop"

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            stop.touch()

    run(spec(**keys), bases["sdxl"], pictures, tmp_path / "out", step=first, stop_file=stop, on_event=on_event)
    resumed = run(spec(**keys), bases["sdxl"], pictures, tmp_path / "out", step=second, resume=True)
    start = resumed.of("plan")[0]["start_step"]
    assert 0 < start < 6
    if first == second:
        assert resumed.losses == straight.losses[start:]
    same(tmp_path / "out" / "disc.safetensors", tmp_path / "straight" / "disc.safetensors")


def test_what_the_fast_step_cannot_do_is_done_by_the_plain_one(
    bases: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    """diffusers' UNet with another activation: the run goes on, and says why it is slower."""
    base = tiny_families.build(tmp_path / "base", "sd15")
    config = base / "unet" / "config.json"
    config.write_text(config.read_text().replace('"act_fn": "silu"', '"act_fn": "gelu"'))
    told = run(spec(max_train_epochs=1), base, pictures, tmp_path / "out", step="merged")
    assert level(told) == "plain"
    assert "another activation than SiLU" in told.of("stepper")[0]["reason"]
    assert [one["key"] for one in told.of("warning")] == ["step"]
