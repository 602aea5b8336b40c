"""Configurations of other trainers become ours, and what has no counterpart is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpurent import convert
from gpurent.convert.kohya import export
from gpurent.errors import ConfigError
from gpurent_engine.formats import datasets
from gpurent_engine.reading import load_spec, parse_spec, read_toml
from gpurent_engine.spec import TrainSpec

AI_TOOLKIT: dict[str, Any] = {
    "job": "extension",
    "config": {
        "name": "stained glass",
        "process": [{
            "type": "sd_trainer", "trigger_word": "gl4ss", "device": "cuda:0",
            "network": {"type": "lora", "linear": 16, "linear_alpha": 8, "conv": 8, "conv_alpha": 4},
            "save": {"dtype": "float16", "save_every": 250, "max_step_saves_to_keep": 4},
            "datasets": [{
                "folder_path": "pictures", "caption_ext": "txt", "num_repeats": 3, "flip_x": True,
                "shuffle_tokens": True, "caption_dropout_rate": 0.05, "resolution": [768, 1024],
            }],
            "train": {
                "batch_size": 2, "steps": 1500, "gradient_accumulation": 2, "train_unet": True,
                "train_text_encoder": False, "optimizer": "adamw8bit", "lr": 2e-4, "lr_scheduler": "cosine",
                "dtype": "bf16", "min_snr_gamma": 5, "ema_config": {"use_ema": True},
            },
            "model": {"name_or_path": "stabilityai/stable-diffusion-xl-base-1.0", "is_xl": True},
            "sample": {"prompts": ["x"]},
        }],
    },
}  # fmt: skip
ONE_TRAINER: dict[str, Any] = {
    "training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE", "base_model_name": "base.safetensors",
    "learning_rate": 3e-4, "learning_rate_scheduler": "COSINE", "learning_rate_warmup_steps": 100, "epochs": 20,
    "batch_size": 4, "resolution": "1024", "lora_rank": 16, "lora_alpha": 1.0, "lora_decompose": True,
    "optimizer": {"optimizer": "PRODIGY", "weight_decay": 0.01}, "loss_weight_fn": "MIN_SNR_GAMMA",
    "loss_weight_strength": 5.0, "ema": "GPU", "output_model_destination": "models/glass.safetensors",
    "output_dtype": "BFLOAT_16", "train_dtype": "BFLOAT_16", "unet": {"train": True, "learning_rate": None},
    "text_encoder": {"train": False}, "text_encoder_2": {"train": False}, "max_noising_strength": 0.9,
    "concepts": [
        {"path": "a", "balancing": 2.0, "text": {"enable_tag_shuffling": True, "keep_tags_count": 1},
         "image": {"enable_random_flip": True}},
        {"path": "b", "enabled": False}, {"path": "c", "type": "PRIOR_PREDICTION"},
    ],
}  # fmt: skip


def converted(folder: Path, name: str, document: dict[str, Any]) -> tuple[TrainSpec, list[str]]:
    """The training that the converted files describe, and what was lost on the way."""
    text = yaml.safe_dump(document) if name.endswith("yaml") else json.dumps(document)
    (folder / name).write_text(text, encoding="utf-8")
    found = convert.convert(folder / name)
    training, dataset = convert.toml(found, "dataset.toml")
    (folder / "training.toml").write_text(training, encoding="utf-8")
    if dataset:
        (folder / "dataset.toml").write_text(dataset, encoding="utf-8")
    return datasets.resolve(load_spec(folder / "training.toml"), folder), found.lost


def test_ai_toolkits_job_is_converted(tmp_path: Path) -> None:
    """Model, network, rates, and the dataset with its augmentations."""
    spec, lost = converted(tmp_path, "job.yaml", AI_TOOLKIT)
    assert (spec.output_name, spec.network_dim, spec.network_alpha) == ("stained glass", 16, 8.0)
    assert spec.network_args == ("conv_dim=8", "conv_alpha=4") and spec.network_train_unet_only
    assert (spec.max_train_steps, spec.train_batch_size, spec.gradient_accumulation_steps) == (1500, 2, 2)
    assert (spec.optimizer_type, spec.lr_scheduler, spec.min_snr_gamma) == ("AdamW8bit", "cosine", 5.0)
    (subset,) = spec.subsets
    own = spec.of(subset.settings)
    assert (subset.repeats, subset.concept, own.flip_aug, own.shuffle_caption) == (3, "gl4ss", True, True)
    assert own.caption_dropout_rate == 0.05 and spec.resolution == (1024, 1024)
    assert any("768, 1024" in one for one in lost) and any("ema_config" in one for one in lost)
    assert any("gl4ss" in one for one in lost)


def test_one_trainers_configuration_is_converted(tmp_path: Path) -> None:
    """Likewise; concepts that are off are left out."""
    spec, lost = converted(tmp_path, "config.json", ONE_TRAINER)
    assert (spec.output_name, spec.max_train_epochs, spec.train_batch_size) == ("glass", 20, 4)
    assert (spec.optimizer_type, spec.lr_scheduler, spec.lr_warmup_steps) == ("Prodigy", "cosine", 100)
    assert not spec.train_text_encoder and spec.min_snr_gamma == 5.0 and spec.max_timestep == 900
    assert spec.network_module == "lycoris.kohya" and "dora_wd=True" in spec.network_args
    first, second = spec.subsets
    assert (first.repeats, spec.of(first.settings).keep_tokens, spec.of(first.settings).flip_aug) == (2, 1, True)
    assert second.regular and any(one.startswith("ema:") for one in lost)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({**ONE_TRAINER, "training_method": "FINE_TUNE"}, "FINE_TUNE"),
        ({**ONE_TRAINER, "model_type": "FLUX_DEV_1"}, "FLUX_DEV_1"),
        ({**ONE_TRAINER, "peft_type": "OFT_2"}, "OFT_2"),
        ({"config": {"process": []}}, "no training"),
        ({"config": {"process": [{"model": {"is_flux": True, "name_or_path": "x"}}]}}, "flux"),
        ({"config": {"process": [{"network": {"type": "lorm"}}]}}, "lorm"),
        ({"netwrok_dim": 3}, "netwrok_dim is not a known key"),
    ],
)
def test_what_cannot_be_trained_here_is_said(tmp_path: Path, document: dict[str, Any], says: str) -> None:
    """With what can."""
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=says):
        convert.convert(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["{", "- 1", "\x00", "&a [*a, *a]", "!!python/object/apply:os.system [id]"])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, text: str) -> None:
    """YAML that would run code among them."""
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        convert.convert(tmp_path / "a.yaml")


def test_a_preset_of_the_gui_is_converted_to_the_trainers_keys(tmp_path: Path) -> None:
    """The same training comes out."""
    preset = Path("tests/engine/configs/26-gui-loha.json").absolute()
    training, _ = convert.toml(convert.convert(preset), "d.toml")
    assert parse_spec(read_toml("x", training)) == load_spec(preset)


def test_a_training_is_written_back_for_kohyas_trainer() -> None:
    """Read again it is the same, and defaults of ours that differ are spelled out."""
    for name in ("02-colab.toml", "09-dora.toml", "18-piecewise.toml"):
        spec = load_spec(Path("tests/engine/configs") / name)
        text, _ = export(spec)
        again = parse_spec(read_toml("x", text))
        differing = {k for k, v in spec.to_dict().items() if v != again.to_dict()[k]} - {
            "warnings",
            "caption_extension",
        }
        assert not differing
        assert 'save_precision = "' in text and "seed = " in text


def test_the_command_converts_and_writes_back(tmp_path: Path) -> None:
    """``gpurent init --from`` and ``--export-kohya``; what is lost is printed."""
    from gpurent.cli import init

    (tmp_path / "job.yaml").write_text(yaml.safe_dump(AI_TOOLKIT), encoding="utf-8")
    assert init.run(tmp_path / "new", force=False, source=tmp_path / "job.yaml") == 0
    assert (tmp_path / "new" / "dataset_config.toml").exists()
    assert init.run(tmp_path, force=False, export=tmp_path / "new" / "training_config.toml") == 0
    assert "for kohya-ss" in (tmp_path / "training_config-kohya.toml").read_text().lower()
