"""SDXL, Stable Diffusion 2.x and v-prediction train as a loop written by hand does, and their files are kohya's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.engine import plain_families, tiny_families
from tests.engine.run import run, spec
from tests.thorough import often

from gpurent_engine.buckets import Placement, kohya_crop
from gpurent_engine.data import ImageItem
from gpurent_engine.feed import size_row

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL in miniature."""
    return tiny_families.build(tmp_path_factory.mktemp("xl") / "base", "sdxl")


@pytest.mark.parametrize(
    ("family", "prediction", "keys"),
    often([
        ("sdxl", "epsilon", {"text_encoder_lr": [1e-3, 2e-3]}),
        ("sdxl", "v_prediction", {"text_encoder_lr": [0.0, 2e-3], "min_snr_gamma": 5.0}),
        ("sd2", "v_prediction", {"text_encoder_lr": 1e-3}),
        ("sd15", "v_prediction", {"network_train_unet_only": True, "min_snr_gamma": 1.0}),
    ], lambda case: case[1] == "epsilon" or case[0] == "sd2"),
)  # fmt: skip
def test_every_family_trains_like_a_loop_written_by_hand(
    pictures: Path, tmp_path: Path, family: str, prediction: str, keys: dict[str, Any]
) -> None:
    """Losses equal plain diffusers, transformers and peft to 1e-4: encoders, pooled text, sizes, targets, weights."""
    base = tiny_families.build(tmp_path / "base", family, prediction=prediction)
    steps = 8
    rates = keys.get("text_encoder_lr", 1e-3)
    text_lrs = [0.0, 0.0] if keys.get("network_train_unet_only") else rates if isinstance(rates, list) else [rates]
    ours = run(spec(max_train_epochs=None, max_train_steps=steps, **keys), base, pictures, tmp_path / "out")
    plain = plain_families.losses(
        base, pictures / "1_disc", size=32, batch=2, rank=4, alpha=2, unet_lr=1e-2, text_lrs=text_lrs, seed=5,
        steps=steps, prediction=prediction, snr_gamma=keys.get("min_snr_gamma"),
    )  # fmt: skip
    assert ours.losses == pytest.approx(plain, abs=1e-4)


def test_an_sdxl_file_is_kohyas_and_diffusers_reads_it(xl: Path, pictures: Path, tmp_path: Path) -> None:
    """Stability's names, both encoders' prefixes, metadata that readers know SDXL by; every layer reaches diffusers."""
    told = run(spec(max_train_epochs=1, mixed_precision="no"), xl, pictures, tmp_path)
    plan = told.of("plan")[0]
    state = load_file(tmp_path / "disc.safetensors")
    prefixes = {key.split("_")[1] if key.startswith("lora_te") else key.split("_", 2)[2][:5] for key in state}
    assert {key.split("_text_")[0] for key in state if key.startswith("lora_te")} == {"lora_te1", "lora_te2"}
    assert prefixes >= {"input", "middl", "outpu"} and not any("down_blocks" in key for key in state)
    assert len(state) == 3 * (plan["unet_modules"] + plan["text_encoder_modules"])
    with safe_open(tmp_path / "disc.safetensors", "pt") as file:
        meta: dict[str, str] = file.metadata()
    assert (meta["ss_base_model_version"], meta["ss_v2"]) == ("sdxl_base_v1-0", "False")
    assert meta["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert meta["modelspec.implementation"] == "https://github.com/Stability-AI/generative-models"
    assert json.loads(meta["ss_dataset_dirs"])["1_disc"]["img_count"] == 6

    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(xl)
    pipe.load_lora_weights(tmp_path, weight_name="disc.safetensors")
    attached = {
        part: sum(hasattr(module, "lora_A") for module in getattr(pipe, part).modules())
        for part in ("unet", "text_encoder", "text_encoder_2")
    }
    assert attached["unet"] == plan["unet_modules"]
    assert attached["text_encoder"] + attached["text_encoder_2"] == plan["text_encoder_modules"]
    up = state["lora_unet_middle_block_1_proj_in.lora_up.weight"].float()
    down = state["lora_unet_middle_block_1_proj_in.lora_down.weight"].float()
    layer = pipe.unet.mid_block.attentions[0].proj_in
    delta = layer.lora_B["default_0"].weight @ layer.lora_A["default_0"].weight * layer.scaling["default_0"]
    assert torch.allclose(delta, up @ down * 0.5, atol=1e-7)


def test_a_marked_v_prediction_file_trains_as_it_says(pictures: Path, tmp_path: Path) -> None:
    """NoobAI's markers: v-prediction and zero terminal SNR, told to the user and to readers of the file."""
    base = tiny_families.single_file(tmp_path / "m.safetensors", "sdxl", markers=("v_pred", "ztsnr"))
    told = run(spec(max_train_epochs=1, network_train_unet_only=True), base, pictures, tmp_path / "out")
    assert {one["key"] for one in told.of("warning")} == {"v_parameterization", "zero_terminal_snr"}
    assert all(0 < loss < 20 for loss in told.losses)
    with safe_open(tmp_path / "out" / "disc.safetensors", "pt") as file:
        meta: dict[str, str] = file.metadata()
    assert (meta["modelspec.prediction_type"], meta["ss_zero_terminal_snr"]) == ("v", "True")


def test_v2_names_its_version_and_prediction(pictures: Path, tmp_path: Path) -> None:
    """Readers tell Stable Diffusion 2.x by ``ss_v2``; v-prediction is in the version's name."""
    base = tiny_families.build(tmp_path / "base", "sd2", prediction="v_prediction")
    run(spec(max_train_epochs=1, v2=True, v_parameterization=True), base, pictures, tmp_path / "out")
    with safe_open(tmp_path / "out" / "disc.safetensors", "pt") as file:
        meta: dict[str, str] = file.metadata()
    assert (meta["ss_v2"], meta["ss_base_model_version"]) == ("True", "sd_v2_v")
    assert meta["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"


def test_sizes_are_the_true_ones_or_kohyas() -> None:
    """1920×1080 in a bucket of 640×384: 21 pixels are cut from the left; kohya's formula says 12 from the top."""
    image = ImageItem(Path("x.png"), 1920, 1080, "", None)
    placement = Placement((640, 384), (683, 384))
    assert size_row(image, placement) == [1080, 1920, 0, 21, 384, 640]
    assert size_row(image, placement, kohyas=True) == [1080, 1920, 12, 0, 384, 640]
    assert kohya_crop((1080, 1920), (384, 640)) == (12, 0)
