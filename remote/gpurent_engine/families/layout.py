"""Single files: which architecture their tensors describe, and where each tensor belongs in diffusers' modules.

Layouts: CompVis/stable-diffusion (Stable Diffusion 1.x, 2.x) and Stability-AI/generative-models (SDXL). The numbering
of the UNet's blocks is ``names.blocks``, the same table that names LoRA layers. Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from gpurent_engine import names
from gpurent_engine.families import Family, TextEncoder
from gpurent_engine.families.detect import NotTrainable, Shapes

Take = Literal["all", "q", "k", "v", "transposed", "linear"]
"""How a tensor is taken: whole; a third of stacked query, key and value; transposed; a 1×1 convolution as a matrix."""


@dataclass(frozen=True)
class Move:
    """``target`` in the module is ``source`` in the file."""

    target: str
    source: str
    take: Take = "all"


IGNORED = re.compile(
    r"model_ema\..*|.*position_ids|(.*\.)?logit_scale|v_pred|ztsnr|first_stage_model\.(loss|model_ema)\..*"
    r"|(alphas_cumprod|betas|logvar|scale_factor|sqrt_|log_|posterior_|lvlb_weights).*|denoiser\.sigmas"
)
"""Tensors of training code and markers that no part of the model needs."""


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """Names that start with ``prefix``, without it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def unet_config(shapes: Shapes, family: Family, pooled_width: int) -> dict[str, Any]:
    """Configuration of diffusers' ``UNet2DConditionModel`` for the UNet in ``shapes`` (prefix taken off).

    Raises:
        NotTrainable: the blocks are not those of a Stable Diffusion UNet.
    """
    widths: list[int] = []
    layers: list[int] = []
    depths: list[int] = []
    fresh, number = True, 1
    while any(name.startswith(f"input_blocks.{number}.") for name in shapes):
        block = f"input_blocks.{number}."
        if f"{block}0.op.weight" in shapes:
            fresh = True
        else:
            if fresh:
                widths.append(_size(shapes, f"{block}0.in_layers.2.weight", 0))
                layers.append(0)
                depths.append(0)
                fresh = False
            layers[-1] += 1
            depths[-1] = max(depths[-1], _count(shapes, f"{block}1.transformer_blocks."))
        number += 1
    if not widths:
        raise NotTrainable("holds no UNet that this version knows: input_blocks.1 is missing")
    context = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), 0)
    heads = family.heads if family.head_channels is None else [max(1, one // family.head_channels) for one in widths]
    config: dict[str, Any] = {
        "block_out_channels": widths, "layers_per_block": layers[0], "cross_attention_dim": context,
        "attention_head_dim": heads,  # diffusers' name for the number of heads
        "transformer_layers_per_block": [max(1, one) for one in depths],
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(depths)],
        "use_linear_projection": family.linear_projection,
        # Stable Diffusion 2.1's attention overflows in fp16
        "upcast_attention": family.name == "sd2",
    }  # fmt: skip
    if family.size_conditioning:
        wide = _size(shapes, "label_emb.0.0.weight", 1)
        config |= {
            "addition_embed_type": "text_time", "projection_class_embeddings_input_dim": wide,
            "addition_time_embed_dim": (wide - pooled_width) // 6,  # six numbers: two of each size
        }  # fmt: skip
    return config


def unet_moves(config: dict[str, Any], shapes: Shapes) -> Iterator[Move]:
    """Where each tensor of the UNet belongs."""
    pairs = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip
    if "addition_embed_type" in config:
        pairs |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    for target, source in pairs.items():
        yield from _both(target, source)
    for block in names.blocks(config):
        if block.kind == "transformer":
            for name in below(shapes, f"{block.sgm}."):
                yield Move(f"{block.module}.{name}", f"{block.sgm}.{name}")
        elif block.kind == "resnet":
            for target, source in names.RESNET.items():
                if target != "conv_shortcut" or block.shortcut:
                    yield from _both(f"{block.module}.{target}", f"{block.sgm}.{source}")
        else:
            yield from _both(f"{block.module}.conv", f"{block.sgm}.{'op' if block.kind == 'down' else 'conv'}")


def vae_config(shapes: Shapes, scale: float) -> dict[str, Any]:
    """Configuration of diffusers' ``AutoencoderKL`` for the VAE in ``shapes`` (prefix taken off)."""
    levels = _count(shapes, "encoder.down.")
    widths = [_size(shapes, f"encoder.down.{i}.block.0.conv1.weight", 0) for i in range(levels)]
    return {
        "block_out_channels": widths, "layers_per_block": _count(shapes, "encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": _size(shapes, "post_quant_conv.weight", 0), "scaling_factor": scale,
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in shapes,
    }  # fmt: skip


def vae_moves(config: dict[str, Any], shapes: Shapes) -> Iterator[Move]:
    """Where each tensor of the VAE belongs."""
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    for name in ("quant_conv", "post_quant_conv", "encoder.conv_in", "decoder.conv_in"):
        yield from _both(name, name)
    for half, count in (("encoder", layers), ("decoder", layers + 1)):
        yield from _both(f"{half}.conv_norm_out", f"{half}.norm_out")
        yield from _both(f"{half}.conv_out", f"{half}.conv_out")
        for i in range(levels):
            # the decoder's levels are numbered from the picture downwards, diffusers' from the latent upwards
            here, there = ("down", "down_blocks") if half == "encoder" else ("up", "up_blocks")
            target, source = f"{half}.{there}.{i if half == 'encoder' else levels - 1 - i}", f"{half}.{here}.{i}"
            for j in range(count):
                yield from _vae_resnet(f"{target}.resnets.{j}", f"{source}.block.{j}", shapes)
            for sampler, kind in (("downsamplers", "downsample"), ("upsamplers", "upsample")):
                if f"{source}.{kind}.conv.weight" in shapes:
                    yield from _both(f"{target}.{sampler}.0.conv", f"{source}.{kind}.conv")
        for i in (1, 2):
            yield from _vae_resnet(f"{half}.mid_block.resnets.{i - 1}", f"{half}.mid.block_{i}", shapes)
        if config["mid_block_add_attention"]:
            target, source = f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1"
            yield from _both(f"{target}.group_norm", f"{source}.norm")
            for mine, its in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                yield Move(f"{target}.{mine}.weight", f"{source}.{its}.weight", "linear")
                yield Move(f"{target}.{mine}.bias", f"{source}.{its}.bias")


def _vae_resnet(target: str, source: str, shapes: Shapes) -> Iterator[Move]:
    for leaf in ("norm1", "conv1", "norm2", "conv2"):
        yield from _both(f"{target}.{leaf}", f"{source}.{leaf}")
    if f"{source}.nin_shortcut.weight" in shapes:
        yield from _both(f"{target}.conv_shortcut", f"{source}.nin_shortcut")


def text_config(shapes: Shapes, facts: TextEncoder) -> dict[str, Any]:
    """Arguments of transformers' ``CLIPTextConfig`` for the encoder in ``shapes`` (prefix taken off)."""
    if _is_openclip(shapes):
        vocabulary, width = _pair(shapes, "token_embedding.weight")
        layers = _count(shapes, "transformer.resblocks.") - (0 if facts.pooled else 1)
        inner = _size(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 0)
        positions = _size(shapes, "positional_embedding", 0)
        projection = _size(shapes, "text_projection", 1) if facts.pooled else width
    else:
        base = _hf_base(shapes)
        vocabulary, width = _pair(shapes, f"{base}embeddings.token_embedding.weight")
        layers = _count(shapes, f"{base}encoder.layers.")
        inner = _size(shapes, f"{base}encoder.layers.0.mlp.fc1.weight", 0)
        positions = _size(shapes, f"{base}embeddings.position_embedding.weight", 0)
        projection = width
    return {
        "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner,
        "max_position_embeddings": positions, "num_attention_heads": max(1, width // 64), "projection_dim": projection,
        "hidden_act": facts.activation,
        # ids of OpenAI's vocabulary, and of a smaller one in the same order
        "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1,
    }  # fmt: skip


def text_moves(config: dict[str, Any], shapes: Shapes, facts: TextEncoder) -> Iterator[Move]:
    """Where each tensor of a text encoder belongs; targets without transformers' level ``text_model``."""
    if not _is_openclip(shapes):
        base = _hf_base(shapes)
        for name in shapes:
            if name.startswith(base) and not name.endswith("position_ids"):
                yield Move(name.removeprefix(base), name)
        return
    yield Move("embeddings.token_embedding.weight", "token_embedding.weight")
    yield Move("embeddings.position_embedding.weight", "positional_embedding")
    yield from _both("final_layer_norm", "ln_final")
    if facts.pooled:
        yield Move("text_projection.weight", "text_projection", "transposed")
    leaves = {
        "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    thirds: tuple[Take, ...] = ("q", "k", "v")
    for i in range(config["num_hidden_layers"]):
        target, source = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        for mine, its in leaves.items():
            yield from _both(f"{target}.{mine}", f"{source}.{its}")
        for third in thirds:
            for kind in ("weight", "bias"):
                yield Move(f"{target}.self_attn.{third}_proj.{kind}", f"{source}.attn.in_proj_{kind}", third)


def unneeded_text(config: dict[str, Any], shapes: Shapes, facts: TextEncoder) -> set[str]:
    """Tensors that a family leaves out on purpose: Stable Diffusion 2.x stops before OpenCLIP's last layer."""
    if not _is_openclip(shapes) or facts.pooled:
        return {"text_projection.weight", "text_projection"} & set(shapes)
    last = f"transformer.resblocks.{config['num_hidden_layers']}."
    return {name for name in shapes if name.startswith(last) or name == "text_projection"}


def _is_openclip(shapes: Shapes) -> bool:
    return "transformer.resblocks.0.ln_1.weight" in shapes


def _hf_base(shapes: Shapes) -> str:
    """Old files have the level ``text_model``, some converted ones lack it."""
    return "text_model." if any(name.startswith("text_model.") for name in shapes) else ""


def _both(target: str, source: str) -> Iterator[Move]:
    yield Move(f"{target}.weight", f"{source}.weight")
    yield Move(f"{target}.bias", f"{source}.bias")


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered children a prefix has."""
    return len({name[len(prefix) :].split(".", 1)[0] for name in shapes if name.startswith(prefix)})


def _size(shapes: Shapes, name: str, axis: int) -> int:
    shape = shapes.get(name, ())
    if len(shape) <= axis:
        raise NotTrainable(f"is not a complete checkpoint: {name} missing")
    return shape[axis]


def _pair(shapes: Shapes, name: str) -> tuple[int, int]:
    return _size(shapes, name, 0), _size(shapes, name, 1)
