"""Base models of every family: from folders and single files, complete or refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.engine import tiny_families
from tests.engine.run import spec

from gpurent_engine import families
from gpurent_engine.families import SD2, SD15, SDXL, detect, loading
from gpurent_engine.families.detect import Detected
from gpurent_engine.families.parts import ModelError, Parts
from gpurent_engine.spec import SpecError

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults

NAMES = ("sd15", "sd2", "sdxl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A diffusers folder of each family."""
    return {name: tiny_families.build(tmp_path_factory.mktemp(name) / "base", name) for name in NAMES}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A single file of each family; the folder that it was made from lies beside it."""
    return {name: tiny_families.single_file(tmp_path_factory.mktemp(name) / "m.safetensors", name) for name in NAMES}


def models(parts: Parts) -> list[Any]:
    return [parts.unet, parts.vae, *(encoder.model for encoder in parts.text_encoders)]


def pipeline(folder: Path, family: str) -> Any:
    kind = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    return kind.from_pretrained(folder)


def same(ours: Any, theirs: Any) -> bool:
    mine, its = dict(ours.named_parameters()), dict(theirs.named_parameters())
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in its)


@pytest.mark.parametrize("family", NAMES)
def test_a_folder_loads_as_diffusers_loads_it(folders: dict[str, Path], family: str) -> None:
    """Every part has the class and the weights that diffusers' own pipeline has."""
    parts = loading.load(str(folders[family]))
    theirs = pipeline(folders[family], family)
    assert parts.family.name == family and parts.found.prediction == "epsilon"
    assert same(parts.unet, theirs.unet) and same(parts.vae, theirs.vae)
    for encoder in parts.text_encoders:
        assert same(encoder.model, getattr(theirs, encoder.facts.folder))
    ddpm = diffusers.DDPMScheduler.from_config(theirs.scheduler.config)
    assert torch.allclose(parts.alphas_cumprod, ddpm.alphas_cumprod)


@pytest.mark.parametrize("family", NAMES)
def test_a_single_file_is_the_folder_that_it_was_made_from(files: dict[str, Path], family: str) -> None:
    """Configuration told from shapes, every tensor in its place; ``original_names`` wrote it by formulas of its own."""
    whole, single = loading.load(str(files[family].with_suffix(""))), loading.load(str(files[family]))
    for ours, theirs in zip(models(single), models(whole), strict=True):
        assert same(ours, theirs)
    noise, times = torch.randn(1, 4, 8, 8), torch.tensor([500])
    hidden = torch.randn(1, 77, whole.unet.config.cross_attention_dim)
    extra = {"text_embeds": torch.randn(1, 64), "time_ids": torch.ones(1, 6)} if family == "sdxl" else None
    with torch.no_grad():
        first, second = (
            one.unet(noise, times, hidden, added_cond_kwargs=extra).sample for one in (whole, single)
        )  # fmt: skip
        assert torch.equal(first, second)
        image = torch.randn(1, 3, 32, 32)
        assert torch.equal(whole.vae.encode(image).latent_dist.mean, single.vae.encode(image).latent_dist.mean)
    assert [one.tokenizer.pad for one in single.text_encoders] == {"sd15": [49407], "sd2": [0], "sdxl": [49407, 0]}[
        family
    ]


def test_diffusers_converter_agrees_on_single_files(files: dict[str, Path]) -> None:
    """Its own functions give the same UNet, VAE and text encoders from the same file."""
    from diffusers.loaders import single_file_utils as theirs

    converters: Any = theirs
    parts = loading.load(str(files["sdxl"]))
    state = load_file(files["sdxl"])
    unet = converters.convert_ldm_unet_checkpoint(dict(state), dict(parts.unet.config))
    vae = converters.convert_ldm_vae_checkpoint(dict(state), dict(parts.vae.config))
    for module, converted in ((parts.unet, unet), (parts.vae, vae)):
        mine = module.state_dict()
        assert mine.keys() == converted.keys()
        assert all(torch.equal(mine[name], converted[name]) for name in mine)


@pytest.mark.parametrize("level", ["text_model.", ""])
def test_a_text_encoder_of_any_release_loads(folders: dict[str, Path], tmp_path: Path, level: str) -> None:
    """transformers 5 saves names without the level that transformers 4 expects; both are the same model."""
    shutil.copytree(folders["sd15"], tmp_path / "base")
    file = tmp_path / "base" / "text_encoder" / "model.safetensors"
    state = {name.removeprefix("text_model."): one for name, one in load_file(file).items()}
    save_file({level + name: one for name, one in state.items()}, file, {"format": "pt"})
    whole, copy = loading.load(str(folders["sd15"])), loading.load(str(tmp_path / "base"))
    assert same(copy.text_encoders[0].model, whole.text_encoders[0].model)


def test_an_old_vae_loads(folders: dict[str, Path], tmp_path: Path) -> None:
    """The usual base names its VAE's attention as diffusers did before 0.12."""
    shutil.copytree(folders["sd15"], tmp_path / "base")
    file = tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, one in load_file(file).items():
        for new, former in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        state[name] = one
    save_file(state, file, {"format": "pt"})
    assert any(".proj_attn." in name for name in state)
    assert same(loading.load(str(tmp_path / "base")).vae, loading.load(str(folders["sd15"])).vae)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
@pytest.mark.parametrize("spoil", ["missing", "not known", "has the shape"])
def test_a_tensor_without_its_place_refuses_the_base(
    folders: dict[str, Path], tmp_path: Path, part: str, spoil: str
) -> None:
    """Nothing stays at random values: a missing, unknown or misshapen tensor is named."""
    shutil.copytree(folders["sd15"], tmp_path / "base")
    file = next((tmp_path / "base" / part).glob("*.safetensors"))
    state = load_file(file)
    victim = sorted(name for name in state if name.endswith("weight"))[0]
    if spoil == "missing":
        del state[victim]
    elif spoil == "not known":
        state["something.else.weight"] = torch.zeros(2)
    else:
        state[victim] = torch.zeros(3, 3)
    save_file(state, file, {"format": "pt"})
    with pytest.raises(ModelError, match=spoil) as caught:
        loading.load(str(tmp_path / "base"))
    named = "something.else.weight" if spoil == "not known" else victim.removeprefix("text_model.")
    assert f"in {part}, " in str(caught.value) and named in str(caught.value)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("spoil", ["missing", "belong to no part"])
def test_a_single_file_with_a_hole_or_a_rest_is_refused(
    files: dict[str, Path], tmp_path: Path, family: str, spoil: str
) -> None:
    """A tensor that is not there, and one that has no place, are named."""
    state = load_file(files[family])
    victim = next(name for name in state if name.endswith("out_layers.3.weight"))
    if spoil == "missing":
        del state[victim]
    else:
        victim = "model.diffusion_model.adapter.weight"
        state[victim] = torch.zeros(2)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=spoil) as caught:
        loading.load(str(tmp_path / "m.safetensors"))
    assert victim in str(caught.value)


def test_markers_and_training_leftovers_are_no_rest(files: dict[str, Path], tmp_path: Path) -> None:
    """Empty tensors of NoobAI, EMA copies and schedule tables stand in many files."""
    state = load_file(files["sdxl"]) | {
        "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0), "model_ema.decay": torch.zeros(1),
        "alphas_cumprod": torch.zeros(9), "sqrt_recip_alphas_cumprod": torch.zeros(9), "denoiser.sigmas": torch.ones(9),
    }  # fmt: skip
    save_file(state, tmp_path / "m.safetensors")
    parts = loading.load(str(tmp_path / "m.safetensors"))
    assert (parts.found.prediction, parts.found.zero_terminal_snr) == ("v_prediction", True)


def test_another_vae_takes_the_place_of_the_bases_own(files: dict[str, Path], folders: dict[str, Path]) -> None:
    """From a folder or a single file, with or without the prefix of a whole checkpoint."""
    theirs = loading.load(str(files["sd15"])).vae
    for vae in (files["sd15"], files["sd15"].with_suffix("")):
        parts = loading.load(str(folders["sd15"]), vae=str(vae))
        assert same(parts.vae, theirs)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_a_pickle_is_refused_with_the_reason(tmp_path: Path, suffix: str) -> None:
    """It is never opened."""
    (tmp_path / f"m{suffix}").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match="pickle, which can run code"):
        loading.load(str(tmp_path / f"m{suffix}"))


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ({"lora_unet_x.alpha": ()}, "is a LoRA"),
        ({"model.diffusion_model.joint_blocks.0.x": (1,)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn": (1,)}, "Flux"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}, "an inpainting model"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3)}, "an instruct-pix2pix model"),
        ({"conditioner.embedders.0.model.x": (1,)}, "the SDXL refiner"),
        ({"edm_vpred.sigma_max": ()}, "EDM"),
        (
            {},
            "not a complete checkpoint: model.diffusion_model, first_stage_model, cond_stage_model.transformer missing",
        ),
    ],
)
def test_another_kind_of_file_is_called_what_it_is(names: dict[str, tuple[int, ...]], what: str) -> None:
    """Told from names and shapes alone."""
    with pytest.raises(detect.NotTrainable, match=what):
        detect.single_file(names)


def test_an_unknown_family_raises_and_names_the_nearest() -> None:
    """It is never priced or trained as Stable Diffusion 1.5."""
    assert [families.get(name).name for name in NAMES] == list(NAMES)
    with pytest.raises(families.UnknownFamily, match="Did you mean 'sdxl'"):
        families.get("sdx")


@pytest.mark.parametrize(
    ("found", "keys", "prediction", "zero", "noted"),
    [
        (Detected(SD15, "epsilon"), {}, "epsilon", False, []),
        (Detected(SDXL, None), {"v_parameterization": True}, "v_prediction", False, []),
        (Detected(SDXL, "v_prediction", True), {}, "v_prediction", True, ["v_parameterization", "zero_terminal_snr"]),
        (Detected(SD2, "epsilon"), {"v_parameterization": True}, "v_prediction", False, ["v_parameterization"]),
        (Detected(SDXL, None), {"zero_terminal_snr": True}, "epsilon", True, ["zero_terminal_snr"]),
        (Detected(SDXL, None), {"clip_skip": 2}, "epsilon", False, ["clip_skip"]),
        (Detected(SD2, "v_prediction"), {"v2": True, "v_parameterization": True}, "v_prediction", False, []),
    ],
)  # fmt: skip
def test_base_and_configuration_agree_on_what_is_predicted(
    found: Detected, keys: dict[str, object], prediction: str, zero: bool, noted: list[str]
) -> None:
    """A base that says what it predicts is right; where it is silent the keys decide; every difference is said."""
    agreed = detect.agree(found, spec(**keys))
    assert (agreed.prediction, agreed.zero_terminal_snr) == (prediction, zero)
    assert [key for key, _ in agreed.notes] == noted


def test_v2_on_another_family_is_an_error() -> None:
    """A configuration for another base is a mistake, not a preference."""
    with pytest.raises(SpecError, match=r"v2: is true, but the base is Stable Diffusion XL"):
        detect.agree(Detected(SDXL, None), spec(v2=True))
