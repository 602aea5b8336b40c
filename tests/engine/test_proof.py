"""After training the file is read again and shown to do what was trained; whatever is wrong with it is said."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.engine import tiny_families
from tests.engine.run import events, run, spec
from tests.thorough import often

from gpurent_engine import diffusion, networks, proof
from gpurent_engine.families import loading
from gpurent_engine.loop import NothingLearnt
from gpurent_engine.lorafile import read_tensors


@pytest.mark.parametrize(
    ("family", "precision"),
    often(product(["sd15", "sdxl"], ["float", "fp16", "bf16"]), [("sd15", "bf16"), ("sdxl", "fp16")]),
)
def test_a_sound_file_is_proven(pictures: Path, tmp_path: Path, family: str, precision: str) -> None:
    """Every part adds something, the prediction and a drawn picture change, and nothing is wrong; said before done."""
    base = tiny_families.build(tmp_path / "base", family)
    told = run(spec(save_precision=precision, max_train_epochs=1), base, pictures, tmp_path / "out")
    assert [one["event"] for one in told.events][-4:] == ["phase", "proof", "phase", "done"]
    found = told.of("proof")[0]
    assert found["ok"] and found["problems"] == [] and found["path"] == "disc.safetensors"
    assert set(found["parts"]) == {"unet", *(one.folder for one in loading.load(str(base)).family.text_encoders)}
    assert all(one["norm"] > 0 and one["relative"] > 0 for one in found["parts"].values())
    # SDXL takes the last but one layer of its first encoder: the last one has no share in anything
    unused = {"text_encoder": 6} if family == "sdxl" else {}
    assert {part: one["zero_layers"] for part, one in found["parts"].items() if one["zero_layers"]} == unused
    assert found["prediction_change"] > 1e-4 and found["image_change"] > 1e-3
    assert found["prompt"] == "zq style, red circle"


def test_who_stops_early_is_not_kept_waiting(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """A stopped run's file is read again, but nothing is drawn with it."""
    (tmp_path / "stop").touch()
    told = run(spec(), base_model, pictures, tmp_path / "out", stop_file=tmp_path / "stop")
    found = told.of("proof")[0]
    assert found["ok"] and found["image_change"] is None and found["parts"]["unet"]["layers"] == 84


def test_a_lora_without_effect_is_never_done(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """A warm-up that is longer than the run trains nothing: the problem is named for each part, and the run fails."""
    of = spec(lr_scheduler="constant_with_warmup", lr_warmup_steps=10**9, unet_lr=1e-30, text_encoder_lr=1e-30,
              max_train_epochs=None, max_train_steps=1)  # fmt: skip
    with pytest.raises(NothingLearnt, match="all of its layers are zero"):
        run(of, base_model, pictures, tmp_path)
    said = events(tmp_path / "events.jsonl")
    found = next(one for one in said if one["event"] == "proof")
    assert not found["ok"] and len(found["problems"]) == 2 and "adds nothing to the unet" in found["problems"][0]
    assert [one["message"] for one in said if one["event"] == "warning"] == found["problems"]
    assert not any(one["event"] == "done" for one in said)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["disc.safetensors", "state.safetensors"]


def drop(state: dict[str, torch.Tensor]) -> None:
    for suffix in ("lora_down.weight", "lora_up.weight", "alpha"):
        del state[f"lora_unet_mid_block_attentions_0_proj_in.{suffix}"]


def rename(state: dict[str, torch.Tensor]) -> None:
    for key in [key for key in state if key.startswith("lora_te_text_model_")]:
        state[key.replace("_text_model", "")] = state.pop(key)


def spoil(state: dict[str, torch.Tensor]) -> None:
    state["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"][0] = float("nan")


def swap(state: dict[str, torch.Tensor]) -> None:
    key = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
    state[key] = state[key] * 1.01


def forget_alpha(state: dict[str, torch.Tensor]) -> None:
    del state["lora_unet_mid_block_attentions_0_proj_in.alpha"]


@pytest.mark.parametrize(
    ("act", "says"),
    often(
        [
            (drop, "lacks 1 layers, such as lora_unet_mid_block_attentions_0_proj_in"),
            (rename, "has 12 layers that no program knows, such as lora_te_encoder_layers_0"),
            (spoil, "not finite, such as lora_unet_mid_block_attentions_0_proj_in.lora_up"),
            (swap, "mid_block_attentions_0_proj_in.lora_down.weight in the file is not what was trained"),
            (forget_alpha, "1 layers have no alpha"),
            (None, "cannot be read again"),
        ],
        lambda case: case[0] in (drop, spoil, swap),
    ),
)
def test_a_broken_file_is_seen(base_model: Path, pictures: Path, tmp_path: Path, act: Any, says: str) -> None:
    """Lost layers, names of the library's day, NaN, other numbers than trained, no alpha, a torn file."""
    run(spec(max_train_epochs=1), base_model, pictures, tmp_path)
    file = tmp_path / "disc.safetensors"
    trained, _ = read_tensors(file)
    state = load_file(file)
    if act is None:
        file.write_bytes(file.read_bytes()[:-50])
    else:
        act(state)
        save_file(state, file)
    parts = loading.load(str(base_model))
    found = proof.prove(
        parts, networks.plan(parts, spec()),
        diffusion.diffusion(parts.alphas_cumprod, "epsilon", torch.device("cpu")), file, trained=trained,
        prompt="x", side=32, clip_skip=None, draw=False,
    )  # fmt: skip
    assert any(says in problem for problem in found.problems), found.problems
