"""The UNet's spatial transformers (Rombach et al. 2022) over rows of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.checkpoint import checkpoint

from gpurent_engine.step.attention import attend, split
from gpurent_engine.step.build import Builder, UnsupportedError
from gpurent_engine.step.kernels.groupnorm import group_norm
from gpurent_engine.step.kernels.layernorm import add_norm
from gpurent_engine.step.kernels.pointwise import add, geglu

KeyValue = tuple[torch.Tensor, torch.Tensor]


class Block:
    """Self-attention, cross-attention and a GEGLU feed-forward, each behind a LayerNorm and added to its input."""

    def __init__(self, builder: Builder, name: str) -> None:
        base = builder.module(name)
        _check(base, name)
        self.heads = base.attn1.heads
        self.norms = (base.norm1, base.norm2, base.norm3)
        self.qkv = builder.merged([f"{name}.attn1.to_{which}" for which in "qkv"])
        self.out1 = builder.linear(f"{name}.attn1.to_out.0")
        self.q = builder.linear(f"{name}.attn2.to_q")
        self.out2 = builder.linear(f"{name}.attn2.to_out.0")
        self.widen = builder.linear(f"{name}.ff.net.0.proj")
        self.narrow = builder.linear(f"{name}.ff.net.2")
        self.name = name
        self.recompute = builder.recompute

    def __call__(
        self, s: torch.Tensor, y: torch.Tensor | None, back_room: int, text: KeyValue
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Residual path ``s`` ``[b, t, c]`` and what is still to be added to it; both again for the next block.

        ``back_room`` is the room that the layer before wants behind its gradient.
        """
        if self.recompute.what == "blocks":
            s, y = checkpoint(self._forward, s, y, back_room, text, use_reentrant=False, preserve_rng_state=False)
            assert y is not None
            return s, y
        return self._forward(s, y, back_room, text)

    def _forward(
        self, s: torch.Tensor, y: torch.Tensor | None, back_room: int, text: KeyValue
    ) -> tuple[torch.Tensor, torch.Tensor]:
        s, n = add_norm(s, y, self.norms[0], room=self.qkv.room, back_room=back_room)
        q, k, v = split(self.qkv(n), 3, self.heads, back_room=self.qkv.room)
        y = self.out1(attend(q, k, v))
        s, n = add_norm(s, y, self.norms[1], room=self.q.room, back_room=self.out1.room)
        (q,) = split(self.q(n), 1, self.heads, back_room=self.q.room)
        y = self.out2(attend(q, *text))
        s, n = add_norm(s, y, self.norms[2], room=self.widen.room, back_room=self.out2.room)
        if self.recompute.what == "feed-forward":
            grown: torch.Tensor = checkpoint(self._feed, n, use_reentrant=False, preserve_rng_state=False)
            return s, grown
        return s, self._feed(n)

    def _feed(self, n: torch.Tensor) -> torch.Tensor:
        return self.narrow(geglu(self.widen(n), room=self.narrow.room, back_room=self.widen.room))


class SpatialTransformer:
    """GroupNorm, a projection, blocks, a projection back, and the input added."""

    def __init__(self, builder: Builder, name: str) -> None:
        base = builder.module(name)
        if not base.is_input_continuous:
            raise UnsupportedError(f"{name} does not read pixels")
        self.norm = base.norm
        self.proj_in = builder.linear(f"{name}.proj_in")
        self.blocks = [Block(builder, f"{name}.transformer_blocks.{i}") for i in range(len(base.transformer_blocks))]
        self.proj_out = builder.linear(f"{name}.proj_out")

    def __call__(self, x: torch.Tensor, text: dict[str, KeyValue]) -> torch.Tensor:
        """``[b, height, width, c]`` to the same; ``text`` has keys and values by block name."""
        b, height, width, c = x.shape
        h, x, _ = group_norm(x, self.norm, act=False, room=self.proj_in.room)
        s = self.proj_in(h.flatten(1, 2))
        y: torch.Tensor | None = None
        back_room = self.proj_in.room
        for block in self.blocks:
            s, y = block(s, y, back_room, text[block.name])
            back_room = block.narrow.room
        if y is not None:
            s = add(s, y, room=self.proj_out.room)
        h = self.proj_out(s, back_room=back_room)
        return add(x, h.view(b, height, width, c))


class TextKeys:
    """Keys and values of the text for all blocks at once: they depend on nothing but the text.

    One matrix product for all blocks of one width, where their adapters are alike, instead of one a block.
    """

    def __init__(self, builder: Builder, names: Sequence[str]) -> None:
        alike: dict[tuple[int, int], list[str]] = {}
        for name in names:
            attention = builder.module(f"{name}.attn2")
            alike.setdefault((attention.to_k.weight.shape[0], attention.heads), []).append(name)
        self.groups = [
            (
                members,
                heads,
                builder.merged([f"{one}.attn2.to_{which}" for one in members for which in "kv"], stacked=False),
            )
            for (_, heads), members in alike.items()
        ]

    def __call__(self, text: torch.Tensor) -> dict[str, KeyValue]:
        """``[b, tokens, width]`` to ``{block name: (key, value)}``, ``[b, heads, tokens, head]`` each."""
        found: dict[str, KeyValue] = {}
        for names, heads, project in self.groups:
            views = split(project(text), 2 * len(names), heads)
            found.update(zip(names, zip(views[::2], views[1::2], strict=True), strict=True))
        return found


def _check(base: object, name: str) -> None:
    """Raise unless ``base`` is the block of Stable Diffusion 1, 2 and XL."""
    wanted = {"norm_type": "layer_norm", "only_cross_attention": False, "double_self_attention": False}
    for key, value in wanted.items():
        if getattr(base, key, value) != value:
            raise UnsupportedError(f"{name} has {key} = {getattr(base, key)}")
    if getattr(base, "pos_embed", None) is not None or hasattr(base, "fuser"):
        raise UnsupportedError(f"{name} has parts that are not known")
    net = getattr(getattr(base, "ff", None), "net", None)
    if net is None or type(net[0]).__name__ != "GEGLU":
        raise UnsupportedError(f"{name} has no GEGLU feed-forward")
    for which in ("attn1", "attn2"):
        attention = getattr(base, which, None)
        if attention is None:
            raise UnsupportedError(f"{name} has no {which}")
        odd = [
            key
            for key in ("norm_q", "norm_k", "group_norm", "spatial_norm", "norm_cross", "add_k_proj")
            if getattr(attention, key, None) is not None
        ]
        if odd or attention.residual_connection or attention.rescale_output_factor != 1:
            raise UnsupportedError(f"{name}.{which} has {odd[0] if odd else 'a residual of its own'}")
