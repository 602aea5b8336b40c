"""CLIP's text encoder (Radford et al. 2021) over the weights of a transformers model.

transformers builds its causal mask with tensor operations that wait for the GPU; a captured step must not.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from gpurent_engine.step.attention import attend, split
from gpurent_engine.step.build import Builder, UnsupportedError
from gpurent_engine.step.kernels.layernorm import add_norm
from gpurent_engine.step.kernels.pointwise import add

_ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


class _Layer:
    def __init__(self, builder: Builder, name: str, heads: int, activation: Any) -> None:
        base = builder.module(name)
        self.heads, self.activation = heads, activation
        self.norms = (base.layer_norm1, base.layer_norm2)
        self.qkv = builder.merged([f"{name}.self_attn.{which}_proj" for which in "qkv"])
        self.out = builder.linear(f"{name}.self_attn.out_proj")
        self.fc1 = builder.linear(f"{name}.mlp.fc1")
        self.fc2 = builder.linear(f"{name}.mlp.fc2")

    def __call__(self, s: torch.Tensor, y: torch.Tensor | None, back_room: int) -> tuple[torch.Tensor, torch.Tensor]:
        s, n = add_norm(s, y, self.norms[0], room=self.qkv.room, back_room=back_room)
        q, k, v = split(self.qkv(n), 3, self.heads, back_room=self.qkv.room)
        y = self.out(attend(q, k, v, causal=True))
        s, n = add_norm(s, y, self.norms[1], room=self.fc1.room, back_room=self.out.room)
        return s, self.fc2(self.activation(self.fc1(n)))


class TextEncoder:
    """Token ids to hidden states.

    Args:
        builder: over the model that holds ``encoder`` and ``final_layer_norm``.
        layer: which layer's output is taken, counted from the end; 1 is the last.
        normed: whether the final LayerNorm follows; SDXL takes the second last layer without it.
        projection: if the projected state of the end token is wanted too (SDXL's second encoder), its last layer.

    Raises:
        UnsupportedError: the model has parts that are not known here.
    """

    def __init__(
        self, builder: Builder, *, layer: int = 1, normed: bool = True, projection: torch.nn.Linear | None = None
    ) -> None:
        base: Any = builder.model
        config = base.config
        activation = _ACTIVATIONS.get(config.hidden_act)
        if activation is None or not hasattr(base, "encoder"):
            raise UnsupportedError(f"the text encoder has the activation {config.hidden_act}")
        count = len(base.encoder.layers)
        if not 1 <= layer <= count:
            raise UnsupportedError(f"clip_skip = {layer}, and the text encoder has {count} layers")
        self.embeddings, self.final_layer_norm = base.embeddings, base.final_layer_norm
        heads = config.num_attention_heads
        self.take = count - layer + 1
        self.layers = []
        for i in range(count):
            before = len(builder.regions)
            self.layers.append(_Layer(builder, f"encoder.layers.{i}", heads, activation))
            if i >= self.take and projection is None:
                for region in builder.regions[before:]:
                    region.idle = True
        self.normed, self.end = normed, config.eos_token_id
        self.projection = None if projection is None else projection.weight.detach()

    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``ids`` int64 ``[b, tokens]`` to hidden states ``[b, tokens, width]`` and, if wanted, the pooled state.

        Layers behind the one that is taken run only if the pooled state is wanted; as in kohya's trainer, their
        adapters get no gradient otherwise.
        """
        with torch.no_grad():
            s = self.embeddings(input_ids=ids)
        y: torch.Tensor | None = None
        back_room = 0
        hidden = None
        for i, layer in enumerate(self.layers):
            if i == self.take:
                hidden = s = _sum(s, y)
                y, back_room = None, 0
                if self.projection is None:
                    break
            s, y = layer(s, y, back_room)
            back_room = layer.fc2.room
        last = _sum(s, y)
        if hidden is None:
            hidden = last
        pooled = None
        if self.projection is not None:
            normed = add_norm(last, None, self.final_layer_norm)[1]
            ends = ids.argmax(dim=-1) if self.end == 2 else (ids == self.end).int().argmax(dim=-1)
            pooled = normed[torch.arange(len(ids), device=ids.device), ends] @ self.projection.t()
        return add_norm(hidden, None, self.final_layer_norm)[1] if self.normed else hidden, pooled


def _sum(s: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    return s if y is None else add(s, y)
