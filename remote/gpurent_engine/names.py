"""Where a model's layers are and what kohya's files call them: tables by position, built from the architecture.

A UNet's layers are found by counting (level, layer, transformer block), never by listing ``named_modules()``: libraries
rename their modules, and files named after the name of the day load nowhere. transformers 5.6 dropped a level from
CLIP's names that way. Torch-free.

Sources: kohya-ss/sd-scripts ``networks/lora.py`` and ``library/sdxl_model_util.py`` for the names in files;
CompVis/stable-diffusion and Stability-AI/generative-models ``openaimodel.py`` for the numbering of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["attention", "conv", "shortcut", "time", "edge"]
"""``attention``: in a transformer. The next three are in resnets and samplers: 3×3 convolution, 1×1 convolution on the
residual path, linear layer from the time embedding. ``edge``: outside of all blocks."""


@dataclass(frozen=True)
class Site:
    """One layer that can carry a LoRA.

    ``module`` is its path in diffusers' or transformers' model, ``sgm`` the one in Stability's own code.
    """

    module: str
    sgm: str
    kind: Kind


@dataclass(frozen=True)
class Block:
    """One resnet, transformer or sampler of a UNet: its path in diffusers and in Stability's numbering."""

    module: str
    sgm: str
    kind: Literal["resnet", "transformer", "down", "up"]
    depth: int = 0
    """Transformer blocks in it."""
    shortcut: bool = False
    """Whether the resnet has a 1×1 convolution on its residual path, because its widths differ."""


RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
"""Layers of a resnet: diffusers' name, Stability's name."""


def blocks(config: Mapping[str, Any]) -> Iterator[Block]:
    """Every block of a UNet in diffusers' module order: down, up, middle; transformers before resnets.

    Args:
        config: of a diffusers ``UNet2DConditionModel``.
    """
    widths: Sequence[int] = config["block_out_channels"]
    levels = len(widths)
    layers = _each(config["layers_per_block"], levels)
    depths = _each(config.get("transformer_layers_per_block") or 1, levels)
    crossed = ["CrossAttn" in kind for kind in config["down_block_types"]]

    at = 1  # input_blocks.0 is the first convolution
    for level in range(levels):
        path = f"down_blocks.{level}"
        numbers = range(at, at + layers[level])
        if crossed[level]:
            for j, number in enumerate(numbers):
                yield Block(f"{path}.attentions.{j}", f"input_blocks.{number}.1", "transformer", depths[level])
        for j, number in enumerate(numbers):
            before = widths[max(0, level - 1)] if j == 0 else widths[level]
            yield Block(
                f"{path}.resnets.{j}", f"input_blocks.{number}.0", "resnet", shortcut=before != widths[level]
            )  # fmt: skip
        at += layers[level]
        if level < levels - 1:
            yield Block(f"{path}.downsamplers.0", f"input_blocks.{at}.0", "down")
            at += 1

    at = 0
    for up in range(levels):
        level = levels - 1 - up
        path = f"up_blocks.{up}"
        numbers = range(at, at + layers[level] + 1)
        attends = "CrossAttn" in config["up_block_types"][up]
        if attends:
            for j, number in enumerate(numbers):
                yield Block(f"{path}.attentions.{j}", f"output_blocks.{number}.1", "transformer", depths[level])
        for j, number in enumerate(numbers):
            # What comes up is joined by what went across: always wider than what goes on.
            yield Block(f"{path}.resnets.{j}", f"output_blocks.{number}.0", "resnet", shortcut=True)
        at += layers[level] + 1
        if up < levels - 1:
            yield Block(f"{path}.upsamplers.0", f"output_blocks.{at - 1}.{2 if attends else 1}", "up")

    yield Block("mid_block.attentions.0", "middle_block.1", "transformer", depths[-1])
    yield Block("mid_block.resnets.0", "middle_block.0", "resnet")
    yield Block("mid_block.resnets.1", "middle_block.2", "resnet")


def _each(value: Any, count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)


def unet_sites(config: Mapping[str, Any]) -> list[Site]:
    """Every layer of a UNet that kohya's trainer can give a LoRA, convolutions included, in module order."""
    found = []
    for block in blocks(config):
        if block.kind == "transformer":
            leaves = transformer_leaves(block.depth)
            found += [Site(f"{block.module}.{leaf}", f"{block.sgm}.{leaf}", "attention") for leaf in leaves]
        elif block.kind == "resnet":
            found += _resnet_sites(block)
        else:
            found.append(
                Site(f"{block.module}.conv", f"{block.sgm}.{'op' if block.kind == 'down' else 'conv'}", "conv")
            )
    return found


def edge_sites() -> list[Site]:
    """Layers outside of the blocks, to which LyCORIS gives adapters in Stable Diffusion 1.x and 2.x."""
    leaves = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
    return [Site(leaf, leaf, "edge") for leaf in leaves]


def transformer_leaves(depth: int) -> Iterator[str]:
    """Layers of one ``Transformer2DModel`` with ``depth`` blocks; diffusers and Stability call them alike."""
    yield "proj_in"
    for k in range(depth):
        for attention in ("attn1", "attn2"):
            for leaf in ("to_q", "to_k", "to_v", "to_out.0"):
                yield f"transformer_blocks.{k}.{attention}.{leaf}"
        yield f"transformer_blocks.{k}.ff.net.0.proj"
        yield f"transformer_blocks.{k}.ff.net.2"
    yield "proj_out"


def _resnet_sites(block: Block) -> list[Site]:
    kinds: dict[str, Kind] = {"conv1": "conv", "time_emb_proj": "time", "conv2": "conv"}
    if block.shortcut:
        kinds["conv_shortcut"] = "shortcut"
    return [Site(f"{block.module}.{leaf}", f"{block.sgm}.{RESNET[leaf]}", kind) for leaf, kind in kinds.items()]


def text_sites(layers: int) -> list[str]:
    """Layers of a CLIP text encoder that get a LoRA, as paths below its ``encoder``'s parent, in module order."""
    leaves = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
    return [f"encoder.layers.{i}.{leaf}" for i in range(layers) for leaf in leaves]


def unet_key(site: Site, sgm: bool) -> str:
    """``lora_unet_down_blocks_0_attentions_0_proj_in``, or ``lora_unet_input_blocks_1_1_proj_in`` for SDXL."""
    return "lora_unet_" + (site.sgm if sgm else site.module).replace(".", "_")


def text_key(prefix: str, path: str) -> str:
    """``lora_te_text_model_encoder_layers_0_mlp_fc1``: always with the level that newer transformers lack."""
    return f"{prefix}_text_model_{path.replace('.', '_')}"
