"""diffusers' state dicts under the names of the original code (CompVis' and Stability's), in closed form.

One resnet a level and two levels, as in ``tiny_families``. Written independently of ``gpurent_engine``'s tables: levels
are numbered by formula here, by counting there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

State = Mapping[str, torch.Tensor]
LAYERS, LEVELS = 1, 2
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def unet(state: State, up_block_types: Sequence[str]) -> dict[str, torch.Tensor]:
    return {f"model.diffusion_model.{_unet(name, up_block_types)}": one for name, one in state.items()}


def _unet(name: str, up_block_types: Sequence[str]) -> str:
    for theirs, original in OUTER.items():
        if name.startswith(f"{theirs}."):
            return name.replace(theirs, original, 1)
    span = LAYERS + 1
    if match := re.fullmatch(r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        place = f"input_blocks.{span * int(match[1]) + int(match[3]) + 1}.{int(match[2] == 'attentions')}"
    elif match := re.fullmatch(r"down_blocks\.(\d)\.(downsamplers)\.(0)\.conv(.*)", name):
        return f"input_blocks.{span * (int(match[1]) + 1)}.0.op{match[4]}"
    elif match := re.fullmatch(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        place = f"output_blocks.{span * int(match[1]) + int(match[3])}.{int(match[2] == 'attentions')}"
    elif match := re.fullmatch(r"up_blocks\.(\d)\.(upsamplers)\.(0)\.(.*)", name):
        beside = 2 if "CrossAttn" in up_block_types[int(match[1])] else 1
        return f"output_blocks.{span * int(match[1]) + LAYERS}.{beside}.{match[4]}"
    elif match := re.fullmatch(r"(mid_block)\.(resnets|attentions)\.(\d)\.(.*)", name):
        place = f"middle_block.{1 if match[2] == 'attentions' else 2 * int(match[3])}"
    else:
        raise KeyError(name)
    leaf = match[4]
    if match[2] == "resnets":
        head, _, kind = leaf.rpartition(".")
        leaf = f"{RESNET[head]}.{kind}"
    return f"{place}.{leaf}"


def vae(state: State, levels: int = 3) -> dict[str, torch.Tensor]:
    found = {}
    for name, one in state.items():
        new = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            for theirs, original in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                new = new.replace(theirs, original)
            one = one[:, :, None, None] if one.dim() == 2 else one  # the original attends with 1×1 convolutions
        found[f"first_stage_model.{new}"] = one
    return found


def clip(state: State, prefix: str) -> dict[str, torch.Tensor]:
    found = {f"{prefix}text_model.{name.removeprefix('text_model.')}": one for name, one in state.items()}
    return found | {f"{prefix}text_model.embeddings.position_ids": torch.arange(77)[None]}


def openclip(state: State, prefix: str, *, spare_layer: bool = False) -> dict[str, torch.Tensor]:
    """``spare_layer``: the last layer, which Stable Diffusion 2.x does not use, is in its files all the same."""
    leaves = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc", "fc2": "c_proj"}
    plain = {name.removeprefix("text_model."): one for name, one in state.items()}
    found: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(4.6)}
    for name, one in plain.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            stacked = [plain[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(stacked)
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", name):
            if re.search(r"self_attn\.[kv]_proj", name):
                continue
            new = match[2].replace("self_attn", "attn")
            for theirs, original in leaves.items():
                new = new.replace(theirs, original)
            found[f"transformer.resblocks.{match[1]}.{new}"] = one
        elif name == "text_projection.weight":
            found["text_projection"] = one.t()
        else:
            new = name.replace("embeddings.token_embedding", "token_embedding")
            new = new.replace("embeddings.position_embedding.weight", "positional_embedding")
            found[new.replace("final_layer_norm", "ln_final")] = one
    if spare_layer:
        last = max(int(name.split(".")[2]) for name in found if name.startswith("transformer."))
        copies = {name: one for name, one in found.items() if name.startswith(f"transformer.resblocks.{last}.")}
        found |= {name.replace(f".{last}.", f".{last + 1}.", 1): one + 1 for name, one in copies.items()}
        found["text_projection"] = torch.zeros(64, 64)
    return {prefix + name: one for name, one in found.items()}
