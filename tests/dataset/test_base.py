"""The base model is what it has to be before a machine is rented for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.dataset.world import HUB, diffusers_folder, safetensors
from tests.memory import MIB, at_most

from gpurent.dataset.base import HubId, LocalCheckpoint, LocalFolder, resolve
from gpurent.errors import ConfigError

COMPLETE = ["model.diffusion_model.x", "first_stage_model.x", "cond_stage_model.transformer.x"]
CONFIG = Path("training_config.toml")


def refused(name: str, here: Path) -> ConfigError:
    with pytest.raises(ConfigError, match=r"^training_config\.toml: pretrained_model_name_or_path: ") as caught:
        resolve(name, here, CONFIG, half=False)
    assert caught.value.hint
    return caught.value


def test_a_hub_id_is_pulled_by_the_host(tmp_path: Path) -> None:
    """Nothing is sent; its size counts as download."""
    model = resolve(HUB, tmp_path, CONFIG)
    assert isinstance(model, HubId)
    assert (model.name, model.sources, model.target, model.remark) == (HUB, (), None, "")
    assert model.download_bytes > 2 * 10**9
    assert resolve(HUB, tmp_path, CONFIG, half=False).download_bytes > 4 * 10**9


def test_the_withdrawn_name_still_works(tmp_path: Path) -> None:
    """Thousands of configurations name a repository that is gone."""
    model = resolve("runwayml/stable-diffusion-v1-5", tmp_path, CONFIG)
    assert isinstance(model, HubId)
    assert model.name == HUB
    assert "withdrawn" in model.remark


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("./models/sd/v1-5-pruned.safetensors", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("v1-5-pruned-emaonly.ckpt", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("/models/sd_xl_base_1.0.safetensors", "stabilityai/stable-diffusion-xl-base-1.0"),
    ],
)
def test_a_well_known_file_that_is_not_here_is_downloaded_by_the_host(
    tmp_path: Path, name: str, repository: str
) -> None:
    """As the guide's configuration names it, which is to run unchanged; and the user is told."""
    model = resolve(name, tmp_path, tmp_path / "c.toml")
    assert isinstance(model, HubId)
    assert model.name == repository and "not on this computer" in model.remark and repository in model.remark
    with pytest.raises(ConfigError, match="does not exist"):
        resolve(name.replace("1", "7"), tmp_path, tmp_path / "c.toml")


def test_an_unknown_hub_id_is_used_with_a_remark(tmp_path: Path) -> None:
    """It may well be a fine-tune of 1.5; it was not looked up, and that is said."""
    model = resolve("Lykon/dreamshaper-8", tmp_path, CONFIG)
    assert isinstance(model, HubId)
    assert "not looked up" in model.remark


@pytest.mark.parametrize("name", ["stabilityai/stable-diffusion-3-medium", "black-forest-labs/FLUX.1-dev"])
def test_another_family_on_the_hub_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    """Better now than after the download on a rented machine."""
    assert "looks like another family" in str(refused(name, tmp_path))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"), ("RunDiffusion/Juggernaut-XL-v9", "sdxl"),
        ("John6666/juggernautXL", "sdxl"), ("stabilityai/sdxl-turbo", "sdxl"),
        ("cagliostrolab/animagine-xl-3.1", "sdxl"), ("Laxhar/noobai-XL-Vpred-1.0", "sdxl"),
        ("AstraliteHeart/pony-diffusion-v6", "sdxl"), ("stabilityai/stable-diffusion-2-1", "sd2"),
        ("Lykon/dreamshaper-8", "sd15"), ("pixl/toon-v1", "sd15"), ("influx/cats", "sd15"), ("axl/photo", "sd15"),
    ],
)  # fmt: skip
def test_the_family_of_a_hub_id_is_told_by_words_in_its_name(tmp_path: Path, name: str, family: str) -> None:
    """By words, not by letters; the engine looks at the model itself."""
    assert resolve(name, tmp_path, CONFIG).found.family.name == family


@pytest.mark.parametrize(
    "name", ["./nothing", "models/nothing.safetensors", "/nowhere/at/all", "one/two/three", "word"]
)
def test_a_path_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    """Never mistaken for a hub id."""
    assert str(refused(name, tmp_path)).endswith("does not exist.")


def test_a_diffusers_folder_is_sent(tmp_path: Path) -> None:
    """Relative to the configuration's folder."""
    model = resolve("../base", diffusers_folder(tmp_path / "base").parent / "base", CONFIG, half=False)
    assert isinstance(model, LocalFolder)
    assert (model.name, model.target, model.found.family.name) == ("base", "base", "sd15")
    assert ("unet/diffusion_pytorch_model.safetensors") in [inside for _, inside in model.files]


def test_shards_are_weights_too(tmp_path: Path) -> None:
    """Large models come in parts with an index."""
    base = diffusers_folder(tmp_path / "base")
    (base / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for number in (1, 2):
        safetensors(base / "unet" / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors", ["x"])
    model = resolve("base", tmp_path, CONFIG, half=False)
    assert isinstance(model, LocalFolder)
    assert sum("-of-" in inside for _, inside in model.files) == 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vae", None, "vae missing"),
        ("model_index.json", None, "model_index.json missing"),
        ("model_index.json", "{", "model_index.json cannot be read"),
        ("model_index.json", "[]", "holds no JSON object"),
        ("model_index.json", "{}", "model without a class name"),
        ("model_index.json", '{"_class_name": "FluxPipeline"}', "is Flux; this version trains"),
        ("model_index.json", '{"_class_name": "StableDiffusionXLPipeline"}', "text_encoder_2, tokenizer_2 missing"),
        ("unet/config.json", '{"in_channels": 9}', "is an inpainting model"),
        ("unet/config.json", None, "cannot be read"),
        ("scheduler/scheduler_config.json", '{"prediction_type": "sample"}', "predicts 'sample'"),
        ("vae/diffusion_pytorch_model.safetensors", "version https://git-lfs.github.com/spec/v1", "is damaged or no"),
    ],
)
def test_a_folder_that_cannot_be_trained_says_why(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    """Missing parts, other families, pointers in the place of weights."""
    place = diffusers_folder(tmp_path / "base") / file
    if content is not None:
        place.write_text(content)
    elif place.is_dir():
        place.rename(tmp_path / "away")
    else:
        place.unlink()
    assert message in str(refused("base", tmp_path))


def test_half_precision_weights_are_sent_for_a_training_in_half_precision(tmp_path: Path) -> None:
    """Half the upload; where there is only one kind, that one is sent."""
    base = diffusers_folder(tmp_path / "base")
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"):
        model = resolve("base", tmp_path, CONFIG, half=True)
        assert isinstance(model, LocalFolder)
        assert [inside for _, inside in model.files if inside.startswith("unet/d")] == [f"unet/{name}"]
        (base / "unet" / name).unlink()
    assert "holds no .safetensors weights" in str(refused("base", tmp_path))


def test_a_single_file_is_sent(tmp_path: Path) -> None:
    """As it is, under its own name."""
    model = resolve(safetensors(tmp_path / "dream.safetensors", COMPLETE).name, tmp_path, CONFIG)
    assert isinstance(model, LocalCheckpoint)
    assert model.target == "base/dream.safetensors"
    assert [(one.path, one.target) for one in model.sources] == [(tmp_path / "dream.safetensors", model.target)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*COMPLETE[:2], "conditioner.embedders.0.model.x"], "is the SDXL refiner"),
        ([*COMPLETE, "model.diffusion_model.double_blocks.0"], "is Flux"),
        (["lora_unet_down_blocks_0.alpha"], "is a LoRA, not a base model"),
        (COMPLETE[:1], "first_stage_model, cond_stage_model.transformer missing"),
        ([], "is not a complete checkpoint"),
    ],
)
def test_a_single_file_of_another_kind_says_which(tmp_path: Path, names: list[str], message: str) -> None:
    """Told by the names in its header, without loading it."""
    assert message in str(refused(safetensors(tmp_path / "model.safetensors", names).name, tmp_path))


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (COMPLETE, "sd15"), ([*COMPLETE[:2], "cond_stage_model.model.x"], "sd2"),
        ([*COMPLETE[:2], "conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.x"], "sdxl"),
    ],
)  # fmt: skip
def test_a_single_file_of_each_family_is_known(tmp_path: Path, names: list[str], family: str) -> None:
    """By the names of its text encoders."""
    found = resolve(safetensors(tmp_path / "m.safetensors", names).name, tmp_path, CONFIG).found
    assert (found.family.name, found.prediction) == (family, None)


@pytest.mark.parametrize("size", [100 * MIB, 2**62])
def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path, size: int) -> None:
    """A hundred megabytes of JSON, which the format allows, take thirteen times as much memory to parse."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(size.to_bytes(8, "little") + b"{")
        file.truncate(101 * MIB)
    with at_most(4):
        assert "damaged or no safetensors file" in str(refused(path.name, tmp_path))


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"\xff" * 64, (5).to_bytes(8, "little") + b"[1,2]", (9).to_bytes(8, "little") + b'{"a": {}}'],
)
def test_a_damaged_file_is_told_from_its_header(tmp_path: Path, content: bytes) -> None:
    """Whatever the bytes are, the answer is a sentence."""
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "damaged or no safetensors file" in str(refused("model.safetensors", tmp_path))


def test_a_download_that_broke_off_is_found(tmp_path: Path) -> None:
    """The header says how long the file has to be."""
    file = safetensors(tmp_path / "model.safetensors", COMPLETE)
    file.write_bytes(file.read_bytes()[:-1])
    assert "damaged" in str(refused("model.safetensors", tmp_path))


def test_a_suffix_in_capitals_is_the_same(tmp_path: Path) -> None:
    """As cameras and some Windows programs write it."""
    safetensors(tmp_path / "MODEL.SAFETENSORS", COMPLETE)
    assert isinstance(resolve("MODEL.SAFETENSORS", tmp_path, CONFIG), LocalCheckpoint)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_a_pickle_is_refused(tmp_path: Path, name: str) -> None:
    """It could run code on the host."""
    (tmp_path / name).write_bytes(b"anything")
    error = refused(name, tmp_path)
    assert "is not a .safetensors file" in str(error)
    assert "can run code" in error.hint


def test_the_header_of_the_world_is_what_safetensors_reads(tmp_path: Path) -> None:
    """The files these tests write are real ones."""
    from safetensors import safe_open

    with safe_open(safetensors(tmp_path / "x.safetensors", COMPLETE), "np") as file:
        assert sorted(file.keys()) == sorted(COMPLETE)
        assert json.dumps(file.metadata()) == '{"format": "pt"}'
