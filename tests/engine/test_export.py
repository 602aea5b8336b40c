"""The file that comes home: kohya's names, shapes, alpha and metadata; what it does in diffusers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from tests.engine.run import run, spec
from transformers import CLIPTextConfig, CLIPTextModel

from gpurent_engine import export, lora

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults

KEYS = Path(__file__).parent / "data" / "kohya_keys_sd15_rank16.txt"


def load(base: Path) -> Any:
    """The tiny base as a diffusers pipeline, in float32."""
    return diffusers.StableDiffusionPipeline.from_pretrained(base, safety_checker=None, torch_dtype=torch.float32)


def shake(model: Any) -> None:
    """Give each LoRA layer of ``model`` an ``up`` that is not zero."""
    torch.manual_seed(9)
    for _, up in lora.weights(model).values():
        up.data.normal_(std=0.2)


def predict(pipe: Any, caption: str = "zq style, red circle") -> torch.Tensor:
    """What the UNet says for a fixed noise, time and caption."""
    with torch.no_grad():
        ids = pipe.tokenizer(caption, padding="max_length", max_length=77, return_tensors="pt").input_ids
        hidden = pipe.text_encoder(ids).last_hidden_state
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
        found: torch.Tensor = pipe.unet(noise, torch.tensor([300]), hidden).sample
        return found


def trained(base: Path, out: Path, alpha: float) -> torch.Tensor:
    """Write a shaken LoRA for ``base`` to ``out``; return what the model with it says."""
    pipe = load(base)
    lora.inject(pipe.unet, lora.unet_targets(pipe.unet), 4, alpha)
    lora.inject(pipe.text_encoder, lora.text_targets(pipe.text_encoder), 4, alpha)
    shake(pipe.unet)
    shake(pipe.text_encoder)
    from safetensors.torch import save_file

    save_file(export.tensors(pipe.unet, pipe.text_encoder, alpha, "float"), out)
    return predict(pipe)


def test_sd15_has_kohyas_names_and_shapes() -> None:
    """All 264 layers of Stable Diffusion 1.5, with the names and shapes that kohya's own network gives them."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
        for model, names in ((unet, lora.unet_targets(unet)), (text, lora.text_targets(text))):
            lora.inject(model, names, 16, 16.0)
    ours = {
        key_of(name): f"{'x'.join(map(str, down.shape))} {'x'.join(map(str, up.shape))}"
        for model, key_of in ((text, export.text_key), (unet, export.unet_key))
        for name, (down, up) in lora.weights(model).items()
    }
    kohyas = dict(line.split(" ", 1) for line in KEYS.read_text().splitlines())
    assert len(kohyas) == 264 and ours == kohyas


@given(st.integers(0, 40), st.sampled_from(["self_attn.q_proj", "mlp.fc1"]))
def test_text_names_do_not_depend_on_the_version_of_transformers(layer: int, leaf: str) -> None:
    """With the inner ``text_model`` level or without it, the key is the one that every reader knows."""
    name = f"encoder.layers.{layer}.{leaf}"
    wanted = f"lora_te_text_model_encoder_layers_{layer}_{leaf.replace('.', '_')}"
    assert export.text_key(name) == export.text_key(f"text_model.{name}") == wanted


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
    pipe = load(base_model)
    lora.inject(pipe.unet, lora.unet_targets(pipe.unet), 4, 4.0)
    up = lora.weights(pipe.unet)["mid_block.attentions.0.proj_in"][1]
    spoil: tuple[Callable[[], torch.Tensor], ...] = (lambda: up.data.fill_(1e6), lambda: up.data.fill_(float("nan")))
    for act in spoil:
        act()
        with pytest.raises(export.NotFinite, match="lora_unet_mid_block_attentions_0_proj_in"):
            export.tensors(pipe.unet, pipe.text_encoder, 4.0, "fp16")


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
