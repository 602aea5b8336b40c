"""The file that comes home: kohya's names, shapes, alpha and metadata; what it does in diffusers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers as typed_diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.engine.real_shapes import meta_parts
from tests.engine.run import run, spec

from gpurent_engine import export, names, networks
from gpurent_engine.families import SD15, SDXL, Family, loading
from gpurent_engine.families.parts import Parts

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults

DATA = Path(__file__).parent / "data"


def load(base: Path) -> Any:
    """The tiny base as a diffusers pipeline, in float32."""
    return diffusers.StableDiffusionPipeline.from_pretrained(base, safety_checker=None, torch_dtype=torch.float32)


def attached(base: Path, alpha: float) -> tuple[Parts, networks.Network]:
    """The tiny base with a LoRA whose every ``up`` is not zero."""
    parts = loading.load(str(base))
    plan = networks.plan(parts, spec(network_alpha=alpha))
    network = networks.attach(parts, plan, torch.Generator().manual_seed(9))
    torch.manual_seed(9)
    for name, one in network.parameters.items():
        if name.endswith("lora_up.weight"):
            one.data.normal_(std=0.2)
    return parts, network


def contents(network: networks.Network, precision: str = "float") -> dict[str, torch.Tensor]:
    """What the file would hold."""
    return export.tensors(network.parameters, {one.key: one.alpha for one in network.plan.layers}, precision)


def predict(pipe: Any, caption: str = "zq style, red circle") -> torch.Tensor:
    """What the UNet says for a fixed noise, time and caption."""
    with torch.no_grad():
        ids = pipe.tokenizer(caption, padding="max_length", max_length=77, return_tensors="pt").input_ids
        hidden = pipe.text_encoder(ids).last_hidden_state
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
        found: torch.Tensor = pipe.unet(noise, torch.tensor([300]), hidden).sample
        return found


def trained(base: Path, out: Path, alpha: float) -> torch.Tensor:
    """Write a LoRA with random weights for ``base`` to ``out``; return what the model with it says."""
    parts, network = attached(base, alpha)
    save_file(contents(network), out)
    tokenizer = load(base).tokenizer
    return predict(SimpleNamespace(unet=parts.unet, text_encoder=parts.text_encoders[0].model, tokenizer=tokenizer))


@pytest.mark.parametrize(("family", "count"), [(SD15, 264), (SDXL, 986)])
def test_names_and_shapes_are_kohyas(family: Family, count: int) -> None:
    """Every layer of the real architecture, with the name and shapes that kohya's own network gives it.

    ``kohya_keys_*.txt``: written by kohya-ss/sd-scripts' ``networks/lora.py`` (48d368fa) on meta tensors at rank 16.
    """
    parts = meta_parts(family)
    with torch.device("meta"):
        network = networks.attach(parts, networks.plan(parts, spec(network_dim=16)), torch.Generator())
    shapes = {name: "x".join(map(str, one.shape)) for name, one in network.parameters.items()}
    ours = {
        layer.key: f"{shapes[f'{layer.key}.lora_down.weight']} {shapes[f'{layer.key}.lora_up.weight']}"
        for layer in network.plan.layers
    }
    kohyas = dict(
        line.split(" ", 1) for line in (DATA / f"kohya_keys_{family.name}_rank16.txt").read_text().splitlines()
    )
    assert len(kohyas) == count and ours == kohyas


@pytest.mark.parametrize("leaf", ["self_attn.q_proj", "mlp.fc1"])
def test_text_names_do_not_depend_on_the_version_of_transformers(leaf: str) -> None:
    """They come from the table, which always has the level that newer releases lack."""
    path = f"encoder.layers.3.{leaf}"
    assert path in names.text_sites(4)
    assert names.text_key("lora_te1", path) == f"lora_te1_text_model_encoder_layers_3_{leaf.replace('.', '_')}"


@pytest.mark.parametrize("alpha", [1.0, 4.0, 8.0])
def test_diffusers_shows_what_was_trained(base_model: Path, tmp_path: Path, alpha: float) -> None:
    """Loaded by diffusers into a fresh pipeline, the file changes the output as in training, alpha included."""
    with_lora = trained(base_model, tmp_path / "a.safetensors", alpha)
    fresh = load(base_model)
    plain = predict(fresh)
    fresh.load_lora_weights(tmp_path, weight_name="a.safetensors")
    shown = predict(fresh)
    size = float((with_lora - plain).norm())
    assert size > 1e-2
    assert float((shown - with_lora).norm()) / size < 1e-4


def test_the_text_encoders_share_reaches_diffusers(base_model: Path, tmp_path: Path) -> None:
    """The text encoder's layers are attached too: its hidden states change after loading."""
    trained(base_model, tmp_path / "a.safetensors", 4.0)
    pipe = load(base_model)
    ids = torch.tensor([[5, 6, 7]])
    before = pipe.text_encoder(ids).last_hidden_state
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    assert float((pipe.text_encoder(ids).last_hidden_state - before).abs().max().item()) > 1e-3


def test_a_weight_that_is_no_number_is_never_written(base_model: Path) -> None:
    """NaN in one layer, or a number too large for fp16, refuses the file and names the layer."""
    _, network = attached(base_model, 4.0)
    up = network.parameters["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"]
    spoil: tuple[Callable[[], torch.Tensor], ...] = (lambda: up.data.fill_(1e6), lambda: up.data.fill_(float("nan")))
    for act in spoil:
        act()
        with pytest.raises(export.NotFinite, match="lora_unet_mid_block_attentions_0_proj_in"):
            contents(network, "fp16")


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_file_has_the_precision_asked_for(
    base_model: Path, pictures: Path, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    """Weights and alpha are saved in ``save_precision``; alpha is a number without dimensions."""
    run(spec(save_precision=precision, max_train_epochs=1), base_model, pictures, tmp_path)
    found = load_file(tmp_path / "disc.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    alphas = [tensor for key, tensor in found.items() if key.endswith(".alpha")]
    assert len(alphas) == len(found) // 3 and all(one.shape == () and one.item() == 2.0 for one in alphas)


def test_metadata_tells_every_reader_what_it_wants(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """ss_ keys as A1111 and CivitAI read them, hashes over the tensor bytes, modelspec with the trigger phrase."""
    run(
        spec(enable_bucket=True, bucket_reso_steps=16, min_bucket_reso=16, save_precision="fp16"),
        base_model,
        pictures,
        tmp_path,
    )
    data = (tmp_path / "disc.safetensors").read_bytes()
    with safe_open(tmp_path / "disc.safetensors", "pt") as file:
        meta: dict[str, str] = file.metadata()
    assert all(isinstance(value, str) for value in meta.values())
    assert (meta["ss_base_model_version"], meta["ss_v2"], meta["ss_network_module"]) == (
        "sd_v1",
        "False",
        "networks.lora",
    )
    assert (meta["ss_network_dim"], meta["ss_network_alpha"], meta["ss_output_name"]) == ("4", "2.0", "disc")
    assert (meta["ss_num_train_images"], meta["ss_steps"], meta["ss_epoch"], meta["ss_seed"]) == ("6", "6", "2", "5")
    assert json.loads(meta["ss_dataset_dirs"]) == {"1_disc": {"n_repeats": 1, "img_count": 6}}
    assert json.loads(meta["ss_tag_frequency"])["1_disc"]["zq style"] == 6
    assert json.loads(meta["ss_bucket_info"])["buckets"] == {"0": {"resolution": [32, 32], "count": 6}}
    assert (meta["ss_resolution"], meta["ss_clip_skip"]) == ("(32, 32)", "None")
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert meta["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert len(meta["sshs_legacy_hash"]) == 8
    assert meta["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert meta["modelspec.trigger_phrase"] == "zq style"
    assert (meta["modelspec.resolution"], meta["modelspec.title"]) == ("32x32", "disc")


def test_a_given_trigger_phrase_wins(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """``metadata_trigger_phrase`` stands in the file as given; without buckets the table of buckets is null."""
    run(spec(metadata_trigger_phrase="my phrase", max_train_epochs=1), base_model, pictures, tmp_path)
    with safe_open(tmp_path / "disc.safetensors", "pt") as file:
        meta: dict[str, str] = file.metadata()
    assert meta["modelspec.trigger_phrase"] == "my phrase" and meta["ss_bucket_info"] == "null"


def test_only_the_trained_part_is_saved(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """With ``network_train_unet_only`` the file holds no key of the text encoder."""
    run(spec(network_train_unet_only=True, max_train_epochs=1), base_model, pictures, tmp_path)
    assert {key[:9] for key in load_file(tmp_path / "disc.safetensors")} == {"lora_unet"}
