"""Thirty configurations in the manner of those that people share: each is taken, and means what its writer meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpurent_engine import networkargs
from gpurent_engine.formats import datasets
from gpurent_engine.networkargs import NetworkArgs
from gpurent_engine.reading import load_spec, parse_spec
from gpurent_engine.spec import SpecError, TrainSpec

FOLDER = Path(__file__).parent / "configs"
GUI: dict[str, list[str]] = json.loads((FOLDER.parent / "data" / "kohya_gui_keys.json").read_text(encoding="utf-8"))

MEANT: dict[str, dict[str, Any]] = {
    "01-guide.toml": {"network_dim": 24, "network_alpha": 12.0, "max_train_epochs": 8, "train_batch_size": 3},
    "02-colab.toml": {
        "optimizer_type": "Prodigy", "max_token_length": 225, "multires_noise_iterations": 6, "lr_of_unet": 1.0,
        "lr_scheduler_num_cycles": 3, "min_snr_gamma": 5.0, "text_chunks": 3,
    },
    "03-sdxl-plain.toml": {"resolution": (1024, 1024), "optimizer_type": "Adafactor", "train_text_encoder": False},
    "04-illustrious.toml": {"network_dropout": 0.1, "keep_tokens_separator": "|||", "caption_tag_dropout_rate": 0.1},
    "05-noob-vpred.toml": {
        "v_parameterization": True, "zero_terminal_snr": True, "scale_v_pred_loss_like_noise_pred": True,
        "lr_scheduler_min_lr_ratio": 0.1, "lr_warmup_steps": 0.05,
    },
    "06-locon-dadapt.toml": {"optimizer_type": "DAdaptation", "max_train_steps": 1200},
    "07-loha.toml": {"scale_weight_norms": 1.0, "multires_noise_discount": 0.2},
    "08-lokr.toml": {"network_dim": 128, "train_text_encoder": False},
    "09-dora.toml": {"loss_type": "huber", "huber_schedule": "snr", "huber_c": 0.1},
    "10-blocks.toml": {"train_text_encoder": False},
    "11-schedule-free.toml": {"optimizer_type": "AdamWScheduleFree", "lr_scheduler": "constant"},
    "12-dotted.toml": {"optimizer_type": "torch.optim.NAdam", "lr_scheduler_type": "CosineAnnealingWarmRestarts"},
    "13-wsd.toml": {"optimizer_type": "AdamW8bit", "lr_warmup_steps": 0.1, "lr_decay_steps": 0.2},
    "14-captions.toml": {"caption_separator": ";", "secondary_separator": "&", "token_warmup_step": 0.3},
    "15-noise.toml": {"noise_offset_random_strength": True, "ip_noise_gamma": 0.05, "min_timestep": 100},
    "16-masks.toml": {"masks": True, "flip_aug": True},
    "17-debiased.toml": {"min_snr_gamma": None, "debiased_estimation_loss": True, "v_pred_like_loss": 0.5},
    "18-piecewise.toml": {"lr_scheduler_args": ("step_rules=1:100,0.5:300,0.1",), "gradient_accumulation_steps": 4},
    "19-continue.toml": {"dim_from_weights": True, "base_weights_multiplier": (0.7, 0.4)},
    "20-sd2.toml": {"v2": True, "resolution": (768, 768), "optimizer_type": "Lion8bit"},
    "21-two-datasets.toml": {"dataset_config": "datasets/two-subsets.toml", "prior_loss_weight": 0.5},
    "22-inline-datasets.toml": {},
    "23-easy.toml": {"max_train_epochs": 6, "lr_warmup_steps": 0.05, "output_name": "knight", "noise_offset": 0.03},
    "24-gui-standard.json": {
        "resolution": (768, 768), "max_train_epochs": 8, "lr_warmup_steps": 0.1, "noise_offset": 0.05,
        "min_snr_gamma": None, "seed": 77, "keep_tokens": 1, "lr_scheduler_num_cycles": 8,
    },
    "25-gui-prodigy.json": {
        "optimizer_type": "Prodigy", "network_train_unet_only": True, "lr_scheduler_type": "CosineAnnealingLR",
        "lr_scheduler_args": ("T_max=900",),
    },
    "26-gui-loha.json": {"noise_offset": 0.0, "multires_noise_iterations": 8, "min_snr_gamma": 10.0},
    "27-gui-lokr.json": {"caption_extension": ".none-use-foldername"},
    "28-gui-locon-blocks.json": {"network_module": "networks.lora"},
    "29-gui-adafactor.json": {"max_train_steps": 1500, "max_train_epochs": None, "weighted_captions": True},
    "30-gui-toml.toml": {"max_train_steps": 560, "max_train_epochs": None, "text_encoder_lr": (5e-5, 5e-5)},
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    "02-colab.toml": {"algo": "lora", "conv_dim": 8, "conv_alpha": 4.0, "lycoris": False},
    "04-illustrious.toml": {"rank_dropout": 0.1, "module_dropout": 0.05, "dropout": 0.1},
    "06-locon-dadapt.toml": {"algo": "lora", "lycoris": True, "conv_dim": 8},
    "07-loha.toml": {"algo": "loha", "conv_dim": 4, "conv_alpha": 1.0},
    "08-lokr.toml": {"algo": "lokr", "factor": 8, "decompose_both": True},
    "09-dora.toml": {"algo": "lora", "dora": True, "conv_dim": 0, "preset": "attn-mlp"},
    "10-blocks.toml": {"block_dims": (0,) * 4 + (16,) * 21, "conv_block_dims": ()},
    "23-easy.toml": {"conv_dim": 4, "conv_alpha": 2.0},
    "26-gui-loha.json": {"algo": "loha", "conv_dim": 4, "conv_alpha": 2.0},
    "27-gui-lokr.json": {"algo": "lokr", "factor": 4, "conv_dim": 8},
    "29-gui-adafactor.json": {"dropout": 0.1},
    "28-gui-locon-blocks.json": {
        "block_dims": (0,) * 6 + (16,) * 13 + (0,) * 6, "conv_block_dims": (0,) * 6 + (8,) * 13 + (0,) * 6,
    },
}  # fmt: skip


def test_there_are_thirty() -> None:
    """Every file is in the table."""
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_file()) == sorted(MEANT) and len(MEANT) == 30


@pytest.mark.parametrize("name", sorted(MEANT))
def test_a_configuration_is_taken_and_means_what_it_says(name: str) -> None:
    """Without an error; and the host reads the same from what is sent to it."""
    spec = load_spec(FOLDER / name)
    assert {key: getattr(spec, key) for key in MEANT[name]} == MEANT[name]
    network = networkargs.read(spec)
    wanted = NETWORKS.get(name, {})
    assert {key: getattr(network, key) for key in wanted} == wanted
    if not wanted:
        assert network == NetworkArgs()
    assert TrainSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_dataset_configuration_inherits_level_by_level(tmp_path: Path) -> None:
    """Subset before dataset before [general] before the training's own file."""
    spec = datasets.resolve(load_spec(FOLDER / "21-two-datasets.toml"), FOLDER)
    cats, regular = spec.subsets
    assert Path(cats.folder) == FOLDER / "datasets" / "cats" and (cats.repeats, cats.concept) == (2, "a cat")
    assert regular.regular and not cats.regular
    of_cats, of_regular = spec.of(cats.settings), spec.of(regular.settings)
    assert (of_cats.keep_tokens, of_regular.keep_tokens) == (2, 1)
    assert (of_cats.resolution, of_cats.enable_bucket, of_cats.shuffle_caption) == ((32, 32), True, True)
    assert spec.resolution == (512, 512)


def test_datasets_in_the_trainings_file_are_used() -> None:
    """With sizes and batches of their own, and a note that kohya's trainer would not read them there."""
    spec = load_spec(FOLDER / "22-inline-datasets.toml")
    first, second = spec.subsets
    assert (first.group, second.group) == (0, 1)
    assert spec.of(first.settings).flip_aug and spec.of(first.settings).train_batch_size == 4
    assert spec.of(second.settings).resolution == (768, 768)
    assert "datasets" in dict(spec.warnings)


def test_subsets_of_easy_training_scripts_are_read() -> None:
    """Its ``[[subsets]]`` stand beside the tables of arguments."""
    (subset,) = load_spec(FOLDER / "23-easy.toml").subsets
    assert (subset.name, subset.repeats) == ("5_knight", 5)


@pytest.mark.parametrize("key", GUI["toml"])
def test_no_key_that_the_gui_writes_into_its_toml_is_unknown(key: str) -> None:
    """Off, as most of them are, none is an error."""
    parse_spec({"pretrained_model_name_or_path": "base", **({} if key.startswith("pretrained") else {key: ""})})


@pytest.mark.parametrize("key", GUI["json"])
def test_no_field_of_the_guis_presets_is_unknown(key: str) -> None:
    """Likewise in its JSON."""
    preset = json.loads((FOLDER / "24-gui-standard.json").read_text(encoding="utf-8"))
    parse_spec({**preset, **({} if key in preset else {key: ""})})


@pytest.mark.parametrize(
    ("document", "key", "says"),
    [
        ({"datasets": [{"subsets": [{"image_dir": "a"}]}], "batchsize": 1}, "batchsize", "not a known key"),
        ({"datasets": [{"subsets": [{"image_dir": "a", "num_repeat": 1}]}]}, "num_repeat", "not a known key"),
        ({"datasets": [{"subsets": [{"num_repeats": 1}]}]}, "image_dir", "missing"),
        ({"datasets": [{"subsets": [{"image_dir": "a", "num_repeats": "3"}]}]}, "num_repeats", "whole number"),
        ({"datasets": [{"subsets": [{"image_dir": "a", "is_reg": True}]}]}, "is_reg", "nothing to learn"),
        (
            {"datasets": [{"subsets": [{"image_dir": "a", "custom_attributes": {"a": 1}}]}]}, "custom_attributes",
            "not supported",
        ),
        ({"datasets": [{"subsets": [{"image_dir": "a", "metadata_file": 3}]}]}, "metadata_file", "must be a string"),
        ({"datasets": [{"resolution": "wide", "subsets": [{"image_dir": "a"}]}]}, "resolution", "512,768"),
        ({"datasets": [{}]}, "datasets", "no [[datasets.subsets]]"),
        ({"general": {}}, "datasets", "at least one"),
    ],
)  # fmt: skip
def test_a_wrong_dataset_configuration_names_place_and_key(document: dict[str, Any], key: str, says: str) -> None:
    """The schema is strict, as kohya's is."""
    with pytest.raises(SpecError) as caught:
        datasets.apply(TrainSpec("base"), document)
    assert caught.value.key == key and says in caught.value.message


def test_all_errors_come_at_once_the_most_important_first() -> None:
    """A missing base, a mistyped key, a wrong type and a value out of range are told in one go."""
    with pytest.raises(SpecError) as caught:
        parse_spec({"netwrok_dim": 8, "learning_rate": "1e-4", "clip_skip": 50, "resume": "s", "xformers": True})
    found = [caught.value, *caught.value.others]
    assert [one.key for one in found] == [
        "pretrained_model_name_or_path", "netwrok_dim", "learning_rate", "resume", "clip_skip",
    ]  # fmt: skip
    assert found[1].suggestion == "network_dim"


@pytest.mark.parametrize(
    ("document", "program", "way"),
    [
        ({"job": "extension", "config": {"name": "x", "process": [{}]}}, "ai-toolkit", "gpurent init --from"),
        ({"training_method": "LORA", "base_model_name": "x"}, "OneTrainer", "gpurent init --from"),
        ({"adapter": {"type": "lora"}, "model": {"type": "sdxl"}}, "diffusion-pipe", "gpurent init"),
        ({"datasets": [{"subsets": [{"image_dir": "a"}]}]}, "dataset configuration", "dataset_config"),
    ],
)  # fmt: skip
def test_files_of_other_programs_are_recognised(document: dict[str, Any], program: str, way: str) -> None:
    """By what stands in them, and the way on is named."""
    with pytest.raises(SpecError) as caught:
        parse_spec(document)
    assert program in caught.value.message and way in caught.value.message


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"network_args": ["conv_dm=4"]}, "conv_dim"),
        ({"network_args": ["conv_dim=four"]}, "number"),
        ({"network_args": ["conv_dim"]}, "name=value"),
        ({"network_module": "lycoris.kohya", "network_args": ["algo=boft"]}, "boft"),
        ({"network_module": "lycoris.kohya", "network_args": ["algo=loha", "use_tucker=True"]}, "change the result"),
        ({"network_module": "lycoris.kohya", "network_args": ["preset=ful"]}, "full"),
        ({"network_args": ["rank_dropout=1"]}, "less than 1"),
        ({"network_module": "networks.dylora"}, "one of"),
        ({"optimizer_type": "some.where.Optimizer"}, "hosts have"),
        ({"optimizer_args": ["weight_decay"]}, "name=value"),
        ({"lr_scheduler_type": "my.Scheduler"}, "torch.optim.lr_scheduler"),
        ({"lr_scheduler": "cosine_with_min_lr"}, "lr_scheduler_min_lr_ratio"),
        ({"lr_scheduler": "adafactor"}, "Adafactor"),
        ({"lr_warmup_steps": 100.0, "lr_scheduler": "cosine"}, "share of the run"),
        ({"seed": 2**70}, "seed"),
        ({"min_snr_gamma": -1}, "wrong way"),
        ({"output_name": "n" * 300}, "too long"),
        ({"lr_scheduler_power": -1.0, "lr_scheduler": "polynomial"}, "at least 0"),
        ({"min_bucket_reso": 0}, "at least 1"),
        ({"enable_bucket": True, "resolution": 32, "bucket_reso_steps": 64}, "no bucket fits 32×32"),
        ({"masked_loss": True}, "needs masks"),
        ({"max_timestep": 100, "min_timestep": 500}, "less than"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_reason(keys: dict[str, Any], says: str) -> None:
    """Before any money is spent."""
    with pytest.raises(SpecError) as caught:
        parse_spec({"pretrained_model_name_or_path": "base", **keys})
    assert says in str(caught.value)


@pytest.mark.parametrize("key", ["additional_parameters", "model_list", "zzzz"])
def test_a_key_that_is_near_no_other_gets_no_hint(key: str) -> None:
    """A wrong hint is worse than none."""
    spec = {"pretrained_model_name_or_path": "base", key: "custom"}
    try:
        told = str(dict(parse_spec(spec).warnings))
    except SpecError as error:
        told = str(error)
    assert key in told and "Did you mean" not in told


@pytest.mark.parametrize("path", [r"C:\Users\me\pics", r"D:\xx\new"])
def test_a_windows_path_in_double_quotes_is_explained(tmp_path: Path, path: str) -> None:
    """TOML takes a backslash for an escape: the message says how to write it."""
    (tmp_path / "training_config.toml").write_text(f'train_data_dir = "{path}"\n', encoding="utf-8")
    with pytest.raises(SpecError, match="Backslashes of a Windows path need 'single quotes'"):
        load_spec(tmp_path / "training_config.toml")


def test_zero_is_what_guis_write_for_off() -> None:
    """network_alpha = 0 is the rank, min_snr_gamma = 0 is off, as kohya and its GUI read them."""
    spec = parse_spec(
        {"pretrained_model_name_or_path": "base", "network_dim": 8, "network_alpha": 0, "min_snr_gamma": 0}
    )
    assert (spec.network_alpha, spec.min_snr_gamma) == (8.0, None)


def test_what_is_possible_but_hardly_meant_warns() -> None:
    """A learning rate of 1 with AdamW, or of 1e-4 with Prodigy."""
    for optimizer, rate in (("AdamW", 1.0), ("Prodigy", 1e-4)):
        spec = parse_spec({"pretrained_model_name_or_path": "b", "optimizer_type": optimizer, "learning_rate": rate})
        assert "learning_rate" in dict(spec.warnings)
