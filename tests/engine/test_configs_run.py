"""Configurations as people share them train, on Stable Diffusion 1.x and SDXL architectures alike."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from tests.engine import tiny_families, tiny_model
from tests.engine.run import run, spec
from tests.thorough import often

from gpurent_engine.formats import datasets
from gpurent_engine.loop import NothingLearnt
from gpurent_engine.reading import load_spec
from gpurent_engine.spec import TrainSpec

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def bases(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base of each family."""
    return {"sd15": base_model, "sdxl": tiny_families.build(tmp_path_factory.mktemp("xl"), "sdxl")}


def small(found: TrainSpec) -> TrainSpec:
    """The same training at the size of the tiny models; everything that decides what is learnt stays."""
    return replace(
        found, resolution=(32, 32), enable_bucket=False, max_train_epochs=None, max_train_steps=3, mixed_precision="no",
        lr_warmup_steps=min(1, found.lr_warmup_steps), network_dim=4, save_every_n_epochs=None, clip_skip=None,
        output_name="disc", save_precision="float",
    )  # fmt: skip


SHARED = ("data/training_config.toml", "configs/30-gui-toml.toml", "configs/02-colab.toml")


@pytest.mark.parametrize(
    ("name", "family"),
    often(product(SHARED, ["sd15", "sdxl"]), [(SHARED[0], "sdxl"), (SHARED[1], "sd15"), (SHARED[2], "sd15")]),
)
def test_a_shared_configuration_trains(
    bases: dict[str, Path], pictures: Path, tmp_path: Path, name: str, family: str
) -> None:
    """The guide's, the GUI's with every key it writes, and a Colab's: 225 tokens, Prodigy, pyramid noise, LoCon."""
    told = run(small(load_spec(FOLDER / name)), bases[family], pictures, tmp_path)
    assert told.result.steps == 3 and told.of("proof")[0]["ok"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_dataset_with_regularisation_trains(bases: dict[str, Path], tmp_path: Path, family: str) -> None:
    """Two subsets; regularisation images come as often as the others and count half."""
    for name, count in (("cats", 3), ("regular", 2)):
        made = tiny_model.pictures(tmp_path / f"made-{name}", count)
        (made / "1_disc").rename(tmp_path / name)
    (tmp_path / "d.toml").write_text((FOLDER / "configs" / "datasets" / "two-subsets.toml").read_text())
    (tmp_path / "t.toml").write_text(
        'pretrained_model_name_or_path = "base"\ndataset_config = "d.toml"\nprior_loss_weight = 0.5\n'
        'max_train_epochs = 1\nsave_precision = "float"\noutput_name = "disc"\nlearning_rate = 1e-3\n'
    )
    of = datasets.resolve(load_spec(tmp_path / "t.toml"), tmp_path)
    told = run(of, bases[family], tmp_path, tmp_path / "out")
    (plan,) = told.of("plan")
    assert plan["images"] == 5 and plan["repeats_total"] == 3 * 2 + 6
    assert told.of("proof")[0]["ok"] and (tmp_path / "out" / "disc.safetensors").exists()


def test_the_loss_of_regularisation_is_weighed(base_model: Path, tmp_path: Path) -> None:
    """With weight 0 only the others teach anything: the file is the same whatever the regularisation images show."""
    files = []
    for colour in ("red", "blue"):
        root = tmp_path / colour
        tiny_model.pictures(root / "train", 2)
        (root / "reg" / "1_thing").mkdir(parents=True)
        Image.new("RGB", (32, 32), colour).save(root / "reg" / "1_thing" / "a.png")
        of = replace(
            spec(max_train_epochs=1, train_batch_size=1, prior_loss_weight=0.0, max_grad_norm=0.0),
            train_data_dir=str(root / "train"), reg_data_dir=str(root / "reg"),
        )  # fmt: skip
        run(datasets.resolve(of, root), base_model, root, root / "out")
        files.append(load_file(root / "out" / "disc.safetensors"))
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_what_a_mask_hides_is_not_learnt(base_model: Path, tmp_path: Path) -> None:
    """Only what the mask shows counts; where everything is hidden the loss is 0 throughout, which is not a success."""
    for side in ("none", "all"):
        root = tmp_path / side
        tiny_model.pictures(root / "d", 2)
        (root / "masks").mkdir()
        for path in (root / "d" / "1_disc").glob("*.png"):
            mask = Image.new("L", (32, 32), 0)
            if side == "all":
                ImageDraw.Draw(mask).rectangle((0, 0, 32, 32), fill=255)
            mask.save(root / "masks" / path.name)
        of = replace(
            spec(max_train_epochs=1), masked_loss=True, train_data_dir=str(root / "d"),
            conditioning_data_dir=str(root / "masks"),
        )  # fmt: skip
        resolved = datasets.resolve(of, root)
        if side == "all":
            assert all(one > 0 for one in run(resolved, base_model, root, root / "out").losses)
        else:
            with pytest.raises(NothingLearnt, match="the loss was 0 throughout"):
                run(resolved, base_model, root, root / "out")


def test_everything_at_once_trains_and_resumes_exactly(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Every kind of noise, weight, caption change and dropout in one run: stopped and resumed = uninterrupted."""
    keys = {
        "noise_offset": 0.1, "noise_offset_random_strength": True, "adaptive_noise_scale": 0.1,
        "multires_noise_iterations": 3, "ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True,
        "loss_type": "huber", "min_snr_gamma": 5, "debiased_estimation_loss": True, "min_timestep": 100,
        "max_timestep": 900, "shuffle_caption": True, "caption_dropout_rate": 0.2, "caption_tag_dropout_rate": 0.2,
        "enable_wildcard": True, "token_warmup_step": 2, "keep_tokens": 1, "flip_aug": True, "weighted_captions": True,
        "network_dropout": 0.1, "network_args": ["rank_dropout=0.1", "module_dropout=0.1", "conv_dim=2"],
        "scale_weight_norms": 1.0, "lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.1,
        "optimizer_type": "Prodigy", "unet_lr": 1.0, "text_encoder_lr": 1.0, "max_token_length": 150,
        "gradient_accumulation_steps": 2, "alpha_mask": True, "max_train_steps": 4, "max_train_epochs": None,
    }  # fmt: skip
    whole = run(spec(**keys, save_every_n_steps=2), base_model, pictures, tmp_path / "whole")

    def stop_halfway(event: dict[str, object]) -> None:
        if event["event"] == "state" and event["step"] == 2:
            (tmp_path / "stop").touch()

    run(
        spec(**keys, save_every_n_steps=2), base_model, pictures, tmp_path / "parts", stop_file=tmp_path / "stop",
        on_event=stop_halfway,
    )  # fmt: skip
    (tmp_path / "stop").unlink()
    rest = run(spec(**keys, save_every_n_steps=2), base_model, pictures, tmp_path / "parts", resume=True)
    assert rest.result.steps == 4
    first, second = (load_file(tmp_path / folder / "disc.safetensors") for folder in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.losses[-1] == rest.losses[-1]


def test_the_fast_step_refuses_what_it_does_not_know() -> None:
    """By name, so that the plain step is taken; keys that it heeds or that never reach it pass."""
    from gpurent_engine.networks.plan import Group, Layer, Plan
    from gpurent_engine.spec import TYPES
    from gpurent_engine.step.build import UnsupportedError
    from gpurent_engine.step.choose import refuse_unknown, settings
    from gpurent_engine.step.heeded import HEEDED, OUTSIDE

    plain = Plan((Group("unet", 1e-4, (Layer("unet", "a", "lora_unet_a", 4, 4.0),)),))
    refuse_unknown(spec(optimizer_args=["weight_decay=0.1", "betas=(0.9,0.99)"], multires_noise_iterations=4), plain)
    assert settings(spec(optimizer_args=["weight_decay=0.1", "betas=(0.9,0.99)"])).betas == (0.9, 0.99)
    for keys in (
        {"loss_type": "huber"}, {"alpha_mask": True}, {"ip_noise_gamma": 0.1}, {"scale_weight_norms": 1.0},
        {"weighted_captions": True}, {"network_dropout": 0.1}, {"optimizer_type": "Lion"},
        {"network_args": ["rank_dropout=0.1"]}, {"network_weights": "a.safetensors"},
    ):  # fmt: skip
        with pytest.raises(UnsupportedError):
            refuse_unknown(spec(**keys), plain)
    for layer in (Layer("unet", "a", "k", 4, 4.0, "loha"), Layer("unet", "a", "k", 4, 4.0, "lora", True)):
        with pytest.raises(UnsupportedError):
            refuse_unknown(spec(), Plan((Group("unet", 1e-4, (layer,)),)))
    assert {"loss_type", "masked_loss", "alpha_mask"} <= set(TYPES) - HEEDED - OUTSIDE
