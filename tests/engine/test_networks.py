"""Kinds of adapters: names and shapes, what they compute, and what they learn, against independent computations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.engine.real_shapes import meta_parts
from tests.engine.run import run, spec
from tests.thorough import often

from gpurent_engine import lorafile, networkargs, networks
from gpurent_engine.deltas import change, factors
from gpurent_engine.families import SD15, SDXL, Family, loading
from gpurent_engine.networkargs import NetworkArgs, block_of
from gpurent_engine.networks import weights
from gpurent_engine.networks.network import Mode
from gpurent_engine.networks.plan import Layer
from gpurent_engine.spec import SpecError

DATA = Path(__file__).parent / "data"
LYCORIS = "lycoris.kohya"


@pytest.mark.parametrize(("family", "count"), [(SD15, 278), (SDXL, 788)])
def test_names_shapes_and_scales_of_locon_are_kohyas(family: Family, count: int) -> None:
    """Rank 16 in linear layers, 8 in 3×3 convolutions, as ``conv_dim`` gives them.

    ``kohya_keys_*_locon.txt``: written by kohya-ss/sd-scripts' ``networks/lora.py`` (48d368fa) on meta tensors with
    network_dim=16, network_alpha=8, conv_dim=8, conv_alpha=4; the UNet's layers.
    """
    parts = meta_parts(family)
    of = spec(
        network_dim=16, network_alpha=8, network_args=["conv_dim=8", "conv_alpha=4"], network_train_unet_only=True
    )
    with torch.device("meta"):
        network = networks.attach(parts, networks.plan(parts, of), torch.Generator(), of)
    ours = {}
    for layer in network.plan.layers:
        down, up = (network.parameters[f"{layer.key}.{one}"].shape for one in ("lora_down.weight", "lora_up.weight"))
        ours[layer.key] = f"{'x'.join(map(str, down))} {'x'.join(map(str, up))} {layer.alpha / layer.rank:g}"
    lines = (DATA / f"kohya_keys_{family.name}_locon.txt").read_text().splitlines()
    theirs = dict(line.split(" ", 1) for line in lines)
    assert len(theirs) == count and ours == theirs


@pytest.mark.parametrize(
    ("dimension", "wanted", "found"),
    [(127, -1, (1, 127)), (128, -1, (8, 16)), (250, -1, (10, 25)), (360, 4, (4, 90)), (512, 8, (8, 64)),
     (1024, 16, (16, 64)), (250, 4, (2, 125)), (250, 8, (5, 50)), (360, 16, (15, 24)), (320, -1, (16, 20))],
)  # fmt: skip
def test_dimensions_are_split_as_lycoris_splits_them(dimension: int, wanted: int, found: tuple[int, int]) -> None:
    """As its ``factorization`` computes (its own table of examples is wrong for 360 and 16)."""
    assert factors(dimension, wanted) == found


def adapted(
    algo: Any, base: Any, rank: int = 4, alpha: float = 2.0, *, dora: bool = False, **options: Any
) -> weights.Adapted:  # fmt: skip
    """A layer with random values in every tensor of its adapter."""
    layer, args = (
        Layer("unet", "x", "lora_unet_x", rank, alpha, algo, dora),
        NetworkArgs(algo=algo, dora=dora, **options),
    )
    generator = torch.Generator().manual_seed(1)
    found = weights.shapes(layer, base.weight.shape, args)
    tensors = {name: weights.first(name, shape, generator, base.weight) for name, shape in found.items()}
    made = weights.Adapted(base, layer, args, tensors, mode=Mode())
    x = torch.randn(2, 24, 9, 9) if isinstance(base, torch.nn.Conv2d) else torch.randn(2, 5, 24)
    with torch.no_grad():
        assert torch.allclose(made(x), base(x), atol=1e-5), "what an adapter adds is zero at the start"
        for name, one in made.tensors().items():
            if name != "dora_scale":
                one.normal_(std=0.3)
            else:
                one.mul_(1.3)
    return made


LAYERS: dict[str, Any] = {
    "linear": lambda: torch.nn.Linear(24, 36),
    "1x1": lambda: torch.nn.Conv2d(24, 36, 1),
    "3x3": lambda: torch.nn.Conv2d(24, 36, 3, padding=1, stride=2),
}


@pytest.mark.parametrize("kind", sorted(LAYERS))
@pytest.mark.parametrize("algo", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_computes_its_formula(algo: str, kind: str, dora: bool) -> None:
    """Output of the wrapped layer = output with W + ΔW, ΔW put together element by element from its definition."""
    torch.manual_seed(0)
    base = LAYERS[kind]()
    made = adapted(algo, base, dora=dora, decompose_both=True, factor=4)
    parts = {name: one.detach().double() for name, one in made.tensors().items()}
    shape = base.weight.shape
    rows, columns = shape[0], base.weight[0].numel()
    delta = torch.zeros(rows, columns, dtype=torch.float64)
    if algo == "lora":
        up, down = parts["lora_up.weight"].reshape(rows, 4), parts["lora_down.weight"].reshape(4, columns)
        for r in range(4):
            delta += torch.outer(up[:, r], down[r])
        delta *= 2 / 4
    elif algo == "loha":
        for i in range(rows):
            for j in range(columns):
                left = parts["hada_w1_a"][i] @ parts["hada_w1_b"][:, j]
                delta[i, j] = left * (parts["hada_w2_a"][i] @ parts["hada_w2_b"][:, j]) * 2 / 4
    else:
        small = parts.get("lokr_w1")
        if small is None:
            small = parts["lokr_w1_a"] @ parts["lokr_w1_b"]
        whole = "lokr_w2" in parts
        large = parts["lokr_w2"].flatten(1) if whole else parts["lokr_w2_a"] @ parts["lokr_w2_b"]
        inner = shape[1] // small.shape[1]
        large = large.reshape(large.shape[0], inner, -1)
        scale = 1.0 if whole and "lokr_w1" in parts else 2 / 4
        block = delta.reshape(rows, shape[1], -1)
        for i in range(rows):
            for j in range(shape[1]):
                block[i, j] = small[i // large.shape[0], j // inner] * large[i % large.shape[0], j % inner] * scale
        delta = block.reshape(rows, columns)
    weight = base.weight.detach().double().flatten(1) + delta
    if dora:  # Liu et al. 2024, equation 5: the magnitude times the direction
        weight = parts["dora_scale"].reshape(rows, 1) * weight / weight.norm(dim=1, keepdim=True)
    x = torch.randn(2, 24, 9, 9) if kind != "linear" else torch.randn(2, 5, 24)
    wanted = made._product(x, weight.float().reshape(shape), base, base.bias)
    assert torch.allclose(made(x), wanted, atol=2e-4)


def test_a_low_rank_layer_is_taken_apart_where_dropouts_are(base_model: Path) -> None:
    """Without a step under way nothing is dropped: what a LoRA with dropouts says is what its file says."""
    parts = loading.load(str(base_model))
    of = spec(network_dropout=0.3, network_args=["rank_dropout=0.2", "module_dropout=0.1"])
    network = networks.attach(parts, networks.plan(parts, of), torch.Generator().manual_seed(1), of)
    layer = network.plan.layers[0]
    module = parts.unet.get_submodule(layer.module)
    assert isinstance(module, weights.Adapted)
    with torch.no_grad():
        module.tensors()["lora_up.weight"].normal_()
    x = (
        torch.randn(2, module.weight.shape[1], 4, 4)
        if module.weight.dim() == 4
        else torch.randn(2, 4, module.weight.shape[1])
    )
    still = module(x)
    tensors = {name: one.detach() for name, one in module.tensors().items()}
    whole = module.weight + change(tensors, module.weight.shape, layer.alpha / layer.rank)
    assert torch.allclose(still, module._product(x, whole, module.base_layer, module.bias), atol=1e-5)
    network.mode.training = True
    torch.manual_seed(3)
    first = module(x)
    torch.manual_seed(3)
    assert torch.equal(first, module(x)) and not torch.allclose(first, still)


def test_half_of_the_ranks_dropped_leave_the_mean_as_it_was() -> None:
    """Rank dropout scales what is left by 1 / (1 - p); neuron dropout as well."""
    torch.manual_seed(0)
    base = torch.nn.Linear(24, 36)
    choices: tuple[dict[str, Any], ...] = ({"rank_dropout": 0.5}, {"dropout": 0.5})
    for options in choices:
        made = adapted("lora", base, rank=64, alpha=64, **options)
        x = torch.randn(1, 1, 24).expand(4000, 1, 24)
        still = made(x[:1])
        made._mode.training = True
        assert torch.allclose(made(x).mean(0), still[0], atol=0.6), options


def test_blocks_are_counted_as_kohya_counts_them() -> None:
    """25 in Stable Diffusion 1.x, 23 in SDXL (kohya-ss/sd-scripts ``networks/lora.py``, get_block_index)."""
    assert block_of("", "down_blocks.0.attentions.0.proj_in", sdxl=False) == 1
    assert block_of("", "down_blocks.2.downsamplers.0.conv", sdxl=False) == 9
    assert block_of("", "mid_block.attentions.0.proj_in", sdxl=False) == 12
    assert block_of("", "up_blocks.0.resnets.0.conv1", sdxl=False) == 13
    assert block_of("", "up_blocks.3.attentions.2.proj_out", sdxl=False) == 24
    assert block_of("input_blocks.4.1.proj_in", "", sdxl=True) == 5
    assert block_of("middle_block.1.proj_in", "", sdxl=True) == 11
    assert block_of("output_blocks.8.0.in_layers.2", "", sdxl=True) == 21


def test_rates_of_blocks_make_groups() -> None:
    """A block without a rate has no adapters; the others share groups by their rate."""
    parts = meta_parts(SD15)
    rates = ["down_lr_weight=0,0,0,0,0,0,0,0,0,0,0,0", "mid_lr_weight=0.5", "up_lr_weight=1,1,1,1,1,1,1,1,1,1,1,1"]
    found = networks.plan(parts, spec(network_args=rates, unet_lr=2e-4, network_train_unet_only=True))
    assert [group.rate for group in found.groups] == [2e-4, 1e-4]
    assert not any(".down_blocks" in f".{layer.module}" for layer in found.layers)


@pytest.mark.parametrize(
    ("preset", "unet", "text"),
    [("full", 282, 72), ("full-lin", 230, 72), ("attn-mlp", 192, 72), ("attn-only", 128, 48),
     ("unet-transformer-only", 192, 0), ("unet-convblock-only", 86, 0), ("unet-only", 282, 0)],
)  # fmt: skip
def test_presets_of_lycoris_choose_its_layers(preset: str, unet: int, text: int) -> None:
    """Counted in Stable Diffusion 1.5: 192 in transformers, 86 in resnets and samplers, 4 outside of blocks."""
    args = ["algo=lora", f"preset={preset}", "conv_dim=4"]
    found = networks.plan(meta_parts(SD15), spec(network_module=LYCORIS, network_args=args))
    counts = [sum(layer.part == "unet" for layer in found.layers), sum(layer.part != "unet" for layer in found.layers)]
    assert counts == [unet, text]


KINDS: dict[str, dict[str, Any]] = {
    "locon": {"network_args": ["conv_dim=4", "conv_alpha=2"]},
    "loha": {"network_module": LYCORIS, "network_args": ["algo=loha", "conv_dim=2", "conv_alpha=1"]},
    "lokr": {"network_module": LYCORIS, "network_args": ["algo=lokr", "factor=4"]},
    "dora": {"network_module": LYCORIS, "network_args": ["algo=lora", "dora_wd=True"]},
    "dropouts": {"network_dropout": 0.1, "network_args": ["rank_dropout=0.1", "module_dropout=0.1"]},
    "blocks": {"network_args": ["block_dims=" + ",".join(["2"] * 25), "block_alphas=" + ",".join(["1"] * 25)]},
}  # fmt: skip


@pytest.mark.parametrize("kind", often(sorted(KINDS), ["dora", "lokr"]))
def test_every_kind_trains_resumes_exactly_and_is_proven(
    base_model: Path, pictures: Path, tmp_path: Path, kind: str
) -> None:
    """Stopped halfway and resumed it equals an uninterrupted run bit for bit, and its file is what was trained."""
    of = spec(max_train_epochs=2, save_every_n_epochs=1, **KINDS[kind])
    whole = run(of, base_model, pictures, tmp_path / "whole")
    (proof,) = whole.of("proof")
    assert proof["ok"], proof["problems"]
    half = spec(max_train_epochs=1, save_every_n_epochs=1, **KINDS[kind])
    run(half, base_model, pictures, tmp_path / "parts")
    rest = run(of, base_model, pictures, tmp_path / "parts", resume=True)
    assert rest.losses == whole.losses[-len(rest.losses) :]
    first, second = (load_file(tmp_path / folder / "disc.safetensors") for folder in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


def test_lora_plus_gives_up_matrices_a_rate_of_their_own(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """One step of plain gradient descent changes them by the ratio more (Hayou et al. 2024, "LoRA+")."""
    keys: dict[str, Any] = {"optimizer_type": "torch.optim.SGD", "max_train_epochs": None, "max_train_steps": 1,
                            "max_grad_norm": 0.0}  # fmt: skip
    plus = ["loraplus_lr_ratio=16", "loraplus_text_encoder_lr_ratio=4"]
    files = []
    for name, arguments in (("plain", []), ("plus", plus)):
        run(spec(**keys, network_args=arguments), base_model, pictures, tmp_path / name)
        files.append(load_file(tmp_path / name / "disc.safetensors"))
    for key, plain in files[0].items():
        if key.endswith("lora_up.weight"):
            assert torch.allclose(files[1][key], plain * (4 if key.startswith("lora_te") else 16), rtol=1e-5)
        else:
            assert torch.equal(files[1][key], plain)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"optimizer_type": "Prodigy", "network_args": ["loraplus_lr_ratio=4"]}, "takes one learning rate for all"),
        ({"network_module": LYCORIS, "network_args": ["algo=loha", "loraplus_lr_ratio=4"]}, "has no up matrices"),
    ],
)
def test_lora_plus_without_rates_or_up_matrices_is_refused(keys: dict[str, Any], says: str) -> None:
    """Before money is spent."""
    with pytest.raises(SpecError, match=says):
        spec(**keys)


def test_a_lokr_of_two_full_matrices_says_that_it_is_not_scaled() -> None:
    """Readers divide alpha by rank; LyCORIS writes alpha = rank there."""
    parts = meta_parts(SD15)
    of = spec(network_module="networks.lokr", network_dim=4096, network_alpha=1, network_train_unet_only=True)
    with torch.device("meta"):
        plan = networks.plan(parts, of)
        network = networks.attach(parts, plan, torch.Generator(), of)
    alphas = plan.alphas(network.parameters.keys())
    assert set(alphas.values()) == {4096.0}


def test_norms_are_limited(base_model: Path) -> None:
    """scale_weight_norms: a layer whose change is too large is scaled to the limit, others stay as they are."""
    parts = loading.load(str(base_model))
    network = networks.attach(parts, networks.plan(parts, spec()), torch.Generator().manual_seed(1))
    large, small = network.plan.layers[0], network.plan.layers[1]
    for layer, size in ((large, 1.0), (small, 1e-3)):
        network.parameters[f"{layer.key}.lora_up.weight"].data.normal_(std=size)
    before = {name: one.clone() for name, one in network.parameters.items()}
    networks.limit_norms(network, 0.5)

    def norm(layer: Layer) -> float:
        tensors = {
            one: network.parameters[f"{layer.key}.{one}"].detach() for one in ("lora_down.weight", "lora_up.weight")
        }
        return lorafile.Layer(layer.key, tensors, layer.alpha).norm()

    assert norm(large) == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(before[f"{small.key}.lora_up.weight"], network.parameters[f"{small.key}.lora_up.weight"])


def test_a_lora_can_be_gone_on_from_and_merged_first(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """network_weights starts where the file ended, with its ranks; base_weights changes what the base says."""
    run(spec(max_train_epochs=1, network_dim=3), base_model, pictures, tmp_path / "a")
    file = tmp_path / "a" / "disc.safetensors"
    keys = {"network_weights": str(file), "dim_from_weights": True, "max_train_epochs": 1, "unet_lr": 1e-9}
    run(spec(**keys, text_encoder_lr=1e-9), base_model, pictures, tmp_path / "b")
    first, second = load_file(file), load_file(tmp_path / "b" / "disc.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
    plain = run(spec(max_train_epochs=1), base_model, pictures, tmp_path / "c").losses[0]
    merged = run(spec(max_train_epochs=1, base_weights=[str(file)]), base_model, pictures, tmp_path / "d").losses[0]
    nothing = run(
        spec(max_train_epochs=1, base_weights=[str(file)], base_weights_multiplier=0.0), base_model, pictures,
        tmp_path / "e",
    ).losses[0]  # fmt: skip
    assert merged != plain and nothing == plain


def test_a_lora_of_another_rank_is_refused_by_name(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """With the key that takes its ranks."""
    run(spec(max_train_epochs=1, network_dim=3), base_model, pictures, tmp_path / "a")
    with pytest.raises(Exception, match="dim_from_weights"):
        run(spec(network_weights=str(tmp_path / "a" / "disc.safetensors")), base_model, pictures, tmp_path / "b")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(Exception, match="network_weights"):
        run(spec(network_weights=str(tmp_path / "x.safetensors")), base_model, pictures, tmp_path / "c")


def test_the_equivalent_rank_is_never_too_small() -> None:
    """Sizes of files are planned with it, on the real architecture."""
    parts = meta_parts(SD15)
    each = sum(
        one.numel() for one in _parameters(parts, spec(network_dim=1, network_train_unet_only=True)).values()
    )  # fmt: skip
    for keys in KINDS.values():
        parts = meta_parts(SD15)
        of = spec(network_train_unet_only=True, **{**keys, "network_args": [
            one.replace("2,2", "8,8") for one in keys["network_args"]]})  # fmt: skip
        assert (
            sum(one.numel() for one in _parameters(parts, of).values()) <= networkargs.equivalent_rank(of) * each * 1.3
        )


def _parameters(parts: Any, of: Any) -> dict[str, torch.Tensor]:
    args = networkargs.read(of)
    found = {}
    for layer in networks.plan(parts, of).layers:
        weight = parts.unet.get_submodule(layer.module).weight
        for name, shape in weights.shapes(layer, weight.shape, args).items():
            found[f"{layer.key}.{name}"] = torch.empty(shape, device="meta")
    return found
