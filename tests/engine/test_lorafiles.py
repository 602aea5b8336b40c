"""Files of other programs are understood; merge, resize, extract and convert do what their names say, in numbers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.engine import tiny_families
from tests.engine.real_shapes import meta_parts
from tests.thorough import often

from gpurent_engine import dialects, lorafile, names, surgery
from gpurent_engine.__main__ import main
from gpurent_engine.families import SD2, SD15, SDXL, Family, loading
from gpurent_engine.lorafile import DOWN, UP, Layer, LoraFile

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults

RANK, ALPHA = 4, 2.0


@cache
def whole(family: Family, *, conv: bool = False) -> dict[str, torch.Tensor]:
    """A kohya file with random weights for every layer of the real architecture."""
    parts = meta_parts(family)
    draw = torch.Generator().manual_seed(1)
    found: dict[str, torch.Tensor] = {}

    def put(key: str, weight: torch.Tensor) -> None:
        ones = (1,) * (weight.dim() - 2)
        found[f"{key}.{DOWN}"] = torch.randn((RANK, *weight.shape[1:]), generator=draw) / 30
        found[f"{key}.{UP}"] = torch.randn((weight.shape[0], RANK, *ones), generator=draw) / 30
        found[f"{key}.alpha"] = torch.tensor(ALPHA)

    for site in names.unet_sites(parts.unet.config):
        if conv or site.kind == "attention":
            put(names.unet_key(site, family.sgm_names), parts.unet.get_submodule(site.module).weight)
    for encoder in parts.text_encoders:
        for path in names.text_sites(len(encoder.inner.encoder.layers)):
            put(names.text_key(encoder.facts.prefix, path), encoder.inner.get_submodule(path).weight)
    return found


def loaded(family: Family, folder: Path, name: str) -> tuple[Any, list[Any]]:
    """What diffusers makes of a file: UNet and text encoders with its own adapters, on weights without memory."""
    parts = meta_parts(family)
    for model in (parts.unet, *(one.model for one in parts.text_encoders)):
        for path, one in list(model.named_parameters()):
            holder, _, leaf = path.rpartition(".")
            # one number that pretends to be a matrix
            setattr(model.get_submodule(holder), leaf, torch.nn.Parameter(torch.zeros(()).expand(one.shape)))
        for path, buffer in list(model.named_buffers()):
            holder, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(holder), leaf, torch.zeros(buffer.shape, dtype=buffer.dtype))
    kind = diffusers.StableDiffusionXLPipeline if family is SDXL else diffusers.StableDiffusionPipeline
    names_of = ("unet", *(facts.folder for facts in family.text_encoders))
    models = dict(zip(names_of, (parts.unet, *(one.model for one in parts.text_encoders)), strict=True))
    more = {one.tokenizer: None for one in family.text_encoders} | {"vae": None, "scheduler": None}
    if family is not SDXL:
        more |= {"safety_checker": None, "feature_extractor": None}
    pipe = kind(**models, **more)
    pipe.load_lora_weights(folder, weight_name=name)
    return parts.unet, [one.inner for one in parts.text_encoders]


@pytest.mark.parametrize(("family", "unet", "text"), [(SD15, 278, 72), (SDXL, 788, 264)])
def test_diffusers_gives_every_layer_of_the_real_architecture_its_delta(
    tmp_path: Path, family: Family, unet: int, text: int
) -> None:
    """LoCon included: as many layers as kohya's, and what diffusers adds to each weight errs below 1e-6."""
    state = whole(family, conv=True)
    assert len(state) == 3 * (unet + text)
    save_file(state, tmp_path / "x.safetensors")
    file = lorafile.collect(state, {})
    model, encoders = loaded(family, tmp_path, "x.safetensors")
    checked = 0
    sites = [(names.unet_key(one, family.sgm_names), model, one.module) for one in names.unet_sites(model.config)]
    for facts, inner in zip(family.text_encoders, encoders, strict=True):
        sites += [(names.text_key(facts.prefix, one), inner, one) for one in names.text_sites(facts.layers)]
    for key, holder, module in sites:
        layer = holder.get_submodule(module)
        up, down = layer.lora_B["default_0"].weight.detach(), layer.lora_A["default_0"].weight.detach()
        ours = file.layers[key]
        if torch.equal(up, ours.tensors[UP]) and torch.equal(down, ours.tensors[DOWN]):
            assert abs(layer.scaling["default_0"] / ours.scale - 1) < 1e-7  # of equal factors: no product of millions
        else:
            theirs = layer.scaling["default_0"] * (up.flatten(1) @ down.flatten(1))
            assert float((theirs - ours.delta().flatten(1)).abs().max()) < 1e-6
        checked += 1
    assert checked == unet + text


@pytest.mark.parametrize("family", [SD15, SD2, SDXL])
def test_to_diffusers_and_back_nothing_is_lost(tmp_path: Path, family: Family) -> None:
    """Alpha is in the weights there; what each layer adds to any input is the same after both ways."""
    draw = torch.Generator().manual_seed(1)
    save_file(whole(family), tmp_path / "a.safetensors")
    first = dialects.read(tmp_path / "a.safetensors")
    assert (first.family, first.dialect, first.unknown) == (family, "kohya", ())
    tensors, header = dialects.to_diffusers(first.file, family, torch.float32)
    save_file(tensors, tmp_path / "b.safetensors", header)
    second = dialects.read(tmp_path / "b.safetensors")
    assert (second.family, second.dialect, second.unknown) == (family, "diffusers", ())
    assert first.file.layers.keys() == second.file.layers.keys()
    for key, layer in first.file.layers.items():
        (up, down), (other_up, other_down) = layer.factors(), second.file.layers[key].factors()
        given = torch.randn(down.shape[1], 2, generator=draw)
        assert torch.allclose(up @ (down @ given), other_up @ (other_down @ given), rtol=1e-5, atol=1e-5)


def respelled(state: dict[str, torch.Tensor], how: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The same SDXL or 1.5 file as other programs spell it."""
    family = SDXL if any("input_blocks" in key for key in state) else SD15
    paths = dialects.diffusers_names(family)
    found: dict[str, torch.Tensor] = {}
    for name, one in state.items():
        key, _, suffix = name.partition(".")
        path = paths[key]
        if how == "blocks":
            new = "lora_unet_" + path.removeprefix("unet.").replace(".", "_") if "unet" in key else key
            found[f"{new}.{suffix}"] = one
        elif how == "no text_model":
            found[name.replace("_text_model_", "_")] = one
        elif how == "peft, alpha in the header":
            if suffix != "alpha":
                found[f"base_model.model.{path}.{'lora_A' if suffix == DOWN else 'lora_B'}.weight"] = one
        elif suffix == "alpha":
            found[f"{path}.alpha"] = one
        else:
            kind = "down" if suffix == DOWN else "up"
            attention = path.rpartition(".attn")[0] and path.split(".")[-1] in ("to_q", "to_k", "to_v", "0")
            parent, _, leaf = path.removesuffix(".0").rpartition(".")
            found[f"{parent}.processor.{leaf}_lora.{kind}.weight" if attention else f"{path}.lora.{kind}.weight"] = one
    if how == "peft, alpha in the header":
        settings = {f"{part}.lora_alpha": ALPHA for part in ("unet", "text_encoder", "text_encoder_2")}
        return found, {"lora_adapter_metadata": json.dumps(settings)}
    return found, {}


@pytest.mark.parametrize("family", often([SD15, SDXL], [SD15]))
@pytest.mark.parametrize("how", ["blocks", "no text_model", "peft, alpha in the header", "before peft"])
def test_files_of_other_programs_are_understood(tmp_path: Path, family: Family, how: str) -> None:
    """Whatever the spelling, every layer is found under our key with the same delta."""
    state = whole(family)
    tensors, header = respelled(state, how)
    save_file(tensors, tmp_path / "x.safetensors", header)
    found = dialects.read(tmp_path / "x.safetensors")
    plain = lorafile.collect(state, {})
    assert found.family is family and found.unknown == ()
    assert found.file.layers.keys() == plain.layers.keys()
    for key in list(plain.layers)[::40]:
        assert torch.allclose(found.file.layers[key].delta(), plain.layers[key].delta(), atol=1e-7)


def test_a_key_that_is_no_layer_is_named(tmp_path: Path) -> None:
    """The rest is still understood."""
    state = whole(SD15) | {"lora_unet_down_blocks_9_x.lora_down.weight": torch.zeros(4, 4), "emb": torch.zeros(1)}
    save_file(state, tmp_path / "x.safetensors")
    assert dialects.read(tmp_path / "x.safetensors").unknown == ("emb", "lora_unet_down_blocks_9_x")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [("x.ckpt", b"\x80", "pickle"), ("x.safetensors", b"x" * 40, "damaged"), ("x.safetensors", b"", "damaged")],
)
def test_what_is_no_lora_is_said(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    """A pickle is not opened, a broken file is called that."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(lorafile.NotALora, match=says):
        dialects.read(tmp_path / name)


def layer(key: str, out: int, inside: int, rank: int, alpha: float, seed: int, kernel: int = 1) -> Layer:
    draw = torch.Generator().manual_seed(seed)
    shape = (inside, kernel, kernel) if kernel > 1 else (inside,)
    ones = (1, 1) if kernel > 1 else ()
    tensors = {
        DOWN: torch.randn((rank, *shape), generator=draw), UP: torch.randn((out, rank, *ones), generator=draw)
    }  # fmt: skip
    return Layer(key, tensors, alpha)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(2, 40), st.integers(2, 40), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]),
    st.integers(0, 99),
)  # fmt: skip
def test_a_lower_rank_is_the_nearest_one(out: int, inside: int, rank: int, less: int, kernel: int, seed: int) -> None:
    """Equal to the truncated singular value decomposition of the whole matrix; the share that is kept is true."""
    one = layer("lora_unet_x", out, inside, rank, 3.0, seed, kernel)
    small, cuts = surgery.resize(LoraFile({"lora_unet_x": one}), less)
    u, values, v = torch.linalg.svd(one.delta().flatten(1).double(), full_matrices=False)
    best = (u[:, :less] * values[:less]) @ v[:less]
    got = small.layers["lora_unet_x"].delta().flatten(1).double()
    assert float((got - best).norm()) <= 1e-4 * float(values.norm())
    assert cuts[0].kept == pytest.approx(float(values[:less].square().sum() / values.square().sum()), abs=1e-4)
    assert one.norm() == pytest.approx(float(values.norm()), rel=1e-4)


def test_a_share_to_keep_chooses_the_rank_of_each_layer() -> None:
    """A layer of rank 1 in the clothes of rank 8 needs one; a full one needs more."""
    thin = layer("lora_unet_a", 20, 20, 8, 8.0, 1)
    thin.tensors[UP][:, 1:] = 0
    full = layer("lora_unet_b", 20, 20, 8, 8.0, 2)
    small, cuts = surgery.resize(LoraFile({"lora_unet_a": thin, "lora_unet_b": full}), 8, 0.9)
    assert small.layers["lora_unet_a"].rank == 1 and 1 < small.layers["lora_unet_b"].rank < 8
    assert all(cut.kept >= 0.9 for cut in cuts)


def test_merged_files_add_up() -> None:
    """The delta is the weighted sum, for layers that both have and for those that one has."""
    a, b = layer("lora_unet_x", 6, 5, 2, 1.0, 1), layer("lora_unet_x", 6, 5, 3, 3.0, 2)
    only = layer("lora_unet_y", 4, 4, 2, 2.0, 3)
    merged = surgery.merge(
        [(LoraFile({"lora_unet_x": a}), 0.7), (LoraFile({"lora_unet_x": b, "lora_unet_y": only}), -0.5)]
    )
    assert torch.allclose(merged.layers["lora_unet_x"].delta(), 0.7 * a.delta() - 0.5 * b.delta(), atol=1e-6)
    assert torch.allclose(merged.layers["lora_unet_y"].delta(), -0.5 * only.delta(), atol=1e-6)
    assert (merged.layers["lora_unet_x"].rank, merged.layers["lora_unet_x"].scale) == (5, 1.0)


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_what_is_baked_in_is_found_again(tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line: bake a LoRA into a single file, extract it, and each layer's delta is there again."""
    base = tiny_families.single_file(tmp_path / "base.safetensors", family)
    parts = loading.load(str(base))
    draw = torch.Generator().manual_seed(4)
    state: dict[str, torch.Tensor] = {}
    for key, weight, _ in surgery._pairs(parts, parts):
        ones = (1,) * (weight.dim() - 2)
        state[f"{key}.{DOWN}"] = torch.randn((2, *weight.shape[1:]), generator=draw)
        state[f"{key}.{UP}"] = torch.randn((weight.shape[0], 2, *ones), generator=draw)
        state[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(state, tmp_path / "lora.safetensors")
    # tiny models have unusual sizes: the base tells the table, the family is named
    arguments = ["lora", "merge", f"{tmp_path / 'lora.safetensors'}:0.5", "--base", str(base), "--family", family]
    assert main([*arguments, "--out", str(tmp_path / "baked.safetensors")]) == 0
    changed, before = load_file(tmp_path / "baked.safetensors"), load_file(base)
    assert changed.keys() == before.keys()
    assert torch.equal(changed["first_stage_model.quant_conv.weight"], before["first_stage_model.quant_conv.weight"])
    assert main([
        "lora", "extract", str(tmp_path / "baked.safetensors"), "--base", str(base), "--rank", "2", "--conv-rank", "2",
        "--precision", "float", "--out", str(tmp_path / "found.safetensors"), "--json",
    ]) == 0  # fmt: skip
    found = lorafile.collect(load_file(tmp_path / "found.safetensors"), {})
    wanted = lorafile.collect(state, {})
    assert found.layers.keys() == wanted.layers.keys()
    for key, one in wanted.layers.items():
        assert torch.allclose(found.layers[key].delta(), 0.5 * one.delta(), atol=1e-3)
    with safe_open(tmp_path / "found.safetensors", "pt") as file:
        meta: dict[str, str] = file.metadata()
    assert meta["modelspec.architecture"].endswith("/lora") and meta["ss_network_dim"] == "2"
    assert len(meta["sshs_model_hash"]) == 64


def test_show_says_what_a_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON and as lines: family, ranks, alphas, parts with their norms, who trained it."""
    meta = {
        "ss_base_model_version": "sd_v1", "ss_output_name": "cat", "ss_steps": "900",
        "ss_tag_frequency": '{"10_cat": {"sks cat": 9, "sofa": 2}}', "modelspec.trigger_phrase": "sks cat",
    }  # fmt: skip
    save_file(whole(SD15), tmp_path / "x.safetensors", meta)
    assert main(["lora", "show", str(tmp_path / "x.safetensors"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["ranks"], facts["alphas"], facts["steps"]) == ("sd15", [4], [2.0], "900")
    assert {part: one["layers"] for part, one in facts["parts"].items()} == {"lora_unet": 192, "lora_te": 72}
    assert facts["tags"] == ["sks cat", "sofa"] and facts["not_finite"] == []
    assert main(["lora", "show", str(tmp_path / "x.safetensors")]) == 0
    assert "trigger phrase: sks cat" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "nothing.safetensors"], "nothing.safetensors"),
        (["resize", "{x}", "--rank", "0", "--out", "{new}"], "--rank must be at least 1"),
        (["resize", "{x}", "--rank", "2", "--out", "{x}"], "exists already; --force"),
        (["convert", "{x}", "--to", "diffusers", "--out", "y.txt"], "must end in .safetensors"),
        (["merge", "{x}:much", "--out", "{new}"], "'much' in"),
        (["merge", "{x}", "{xl}", "--out", "{new}"], "different model families: sd15, sdxl"),
        (["merge", "{x}", "--base", "{x}", "--out", "{new}"], "is a LoRA, not a base model"),
        (["show", "{x}", "--family", "sdx"], "Did you mean 'sdxl'"),
    ],
)
def test_wrong_input_is_a_sentence(
    tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, nothing written, no traceback."""
    save_file(whole(SD15), tmp_path / "x.safetensors")
    save_file({key: one for key, one in whole(SDXL).items() if "te1" in key}, tmp_path / "xl.safetensors")
    places = {"x": tmp_path / "x.safetensors", "xl": tmp_path / "xl.safetensors", "new": tmp_path / "new.safetensors"}
    before = sorted(tmp_path.iterdir())
    assert main(["lora", *(one.format(**places) for one in arguments)]) == 2
    said = capsys.readouterr()
    assert says in said.err and said.out == "" and sorted(tmp_path.iterdir()) == before
