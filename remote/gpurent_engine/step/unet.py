"""The UNet of Stable Diffusion 1, 2 and XL over the weights of a diffusers model, in NHWC from end to end."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from gpurent_engine.step.build import Builder, UnsupportedError
from gpurent_engine.step.kernels.groupnorm import group_norm
from gpurent_engine.step.linear import Linear
from gpurent_engine.step.resnet import Resnet, Upsample
from gpurent_engine.step.transformer import KeyValue, SpatialTransformer, TextKeys

_REFUSED = (
    "center_input_sample", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_embedding_act_fn",
    "timestep_post_act", "time_cond_proj_dim", "dual_cross_attention", "mid_block_only_cross_attention",
    "cross_attention_norm",
)  # fmt: skip
"""Settings that SD 1, 2 and XL leave alone; with any of them the plain model runs."""


class Level:
    """Residual blocks, and transformers behind them where the level has attention."""

    def __init__(self, builder: Builder, name: str) -> None:
        base = builder.module(name)
        if type(base).__name__ not in _BLOCKS:
            raise UnsupportedError(f"{name} is a {type(base).__name__}")
        self.resnets = [Resnet(builder, f"{name}.resnets.{i}") for i in range(len(base.resnets))]
        attentions = getattr(base, "attentions", None) or []
        self.transformers = [SpatialTransformer(builder, f"{name}.attentions.{i}") for i in range(len(attentions))]
        downsamplers = getattr(base, "downsamplers", None)
        upsamplers = getattr(base, "upsamplers", None)
        if downsamplers is not None and (downsamplers[0].norm is not None or downsamplers[0].padding == 0):
            raise UnsupportedError(f"{name} does not downsample with a plain convolution")
        self.down = builder.conv(f"{name}.downsamplers.0.conv") if downsamplers is not None else None
        self.up = Upsample(builder, f"{name}.upsamplers.0") if upsamplers is not None else None


_BLOCKS = (
    "DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D", "UpBlock2D",
)  # fmt: skip


class TimeShifts:
    """What the time step adds in each residual block; one product for all of them where none has an adapter."""

    def __init__(self, builder: Builder, resnets: list[Resnet]) -> None:
        self.names = [resnet.name for resnet in resnets]
        biases = [resnet.shift_bias for resnet in resnets]
        projections = [f"{name}.time_emb_proj" for name in self.names]
        self.each: list[Linear] | None = None
        if any(builder.has_adapter(name) for name in projections):
            self.each = [builder.linear(name) for name in projections]
            for layer, bias in zip(self.each, biases, strict=True):
                layer.bias = bias
            return
        weights = [builder.module(name).weight.detach() for name in projections]
        self.sizes = [len(weight) for weight in weights]
        self.weight, self.bias = torch.cat(weights), torch.cat(biases)

    def __call__(self, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
        """``[b, width]`` to ``{block name: [b, out]}``."""
        x = F.silu(embedding)
        if self.each is not None:
            return {name: layer(x) for name, layer in zip(self.names, self.each, strict=True)}
        shifts = torch.addmm(self.bias, x, self.weight.t()).split(self.sizes, dim=1)
        return dict(zip(self.names, shifts, strict=True))


class UNet:
    """The whole forward pass. The order of operations is that of diffusers' ``UNet2DConditionModel``.

    Raises:
        UnsupportedError: the model has parts that are not known here.
    """

    def __init__(self, builder: Builder) -> None:
        base: Any = builder.model
        config = dict(base.config)
        odd = [key for key in _REFUSED if config.get(key)]
        if odd:
            raise UnsupportedError(f"the UNet has {odd[0]} = {config[odd[0]]}")
        if config.get("addition_embed_type") not in (None, "text_time"):
            raise UnsupportedError(f"the UNet has addition_embed_type = {config['addition_embed_type']}")
        if config.get("act_fn", "silu") != "silu" or base.conv_norm_out is None:
            raise UnsupportedError("the UNet has another activation than SiLU")
        self.base = base
        self.downs = [Level(builder, f"down_blocks.{i}") for i in range(len(base.down_blocks))]
        self.mid = Level(builder, "mid_block")
        self.ups = [Level(builder, f"up_blocks.{i}") for i in range(len(base.up_blocks))]
        self.conv_in, self.conv_out = builder.conv("conv_in"), builder.conv("conv_out")
        levels = [*self.downs, self.mid, *self.ups]
        self.shifts = TimeShifts(builder, [resnet for level in levels for resnet in level.resnets])
        self.text = TextKeys(
            builder,
            [block.name for level in levels for transformer in level.transformers for block in transformer.blocks],
        )

    def __call__(
        self,
        noisy: torch.Tensor,
        times: torch.Tensor,
        text: torch.Tensor,
        pooled: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict from ``noisy`` ``[b, height, width, channels]``; the result has the same shape.

        Args:
            noisy: in the base's format.
            times: int64 ``[b]``.
            text: ``[b, tokens, width]``.
            pooled: SDXL's pooled text ``[b, width]``.
            time_ids: SDXL's sizes and crops ``[b, 6]``.
        """
        shifts = self.shifts(self._embedding(times, noisy.dtype, pooled, time_ids))
        keys = self.text(text)
        x = self.conv_in(noisy)
        skips = [x]
        for level in self.downs:
            for i, resnet in enumerate(level.resnets):
                x = self._pair(level, i, resnet(x, None, shifts[resnet.name]), keys)
                skips.append(x)
            if level.down is not None:
                x = level.down(x)
                skips.append(x)
        x = self.mid.resnets[0](x, None, shifts[self.mid.resnets[0].name])
        for i, resnet in enumerate(self.mid.resnets[1:]):
            x = resnet(self._pair(self.mid, i, x, keys), None, shifts[resnet.name])
        for level in self.ups:
            for i, resnet in enumerate(level.resnets):
                x = self._pair(level, i, resnet(x, skips.pop(), shifts[resnet.name]), keys)
            if level.up is not None:
                x = level.up(x, (skips[-1].shape[1], skips[-1].shape[2]))
        x, _, _ = group_norm(x, self.base.conv_norm_out, act=True)
        return self.conv_out(x)

    @staticmethod
    def _pair(level: Level, i: int, x: torch.Tensor, keys: dict[str, KeyValue]) -> torch.Tensor:
        return level.transformers[i](x, keys) if i < len(level.transformers) else x

    def _embedding(
        self, times: torch.Tensor, dtype: torch.dtype, pooled: torch.Tensor | None, time_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """The time step, and for SDXL sizes and pooled text, as ``[b, width]``; no layer here carries an adapter."""
        embedding: torch.Tensor = self.base.time_embedding(self.base.time_proj(times).to(dtype))
        if pooled is None or time_ids is None:
            return embedding
        sizes = self.base.add_time_proj(time_ids.flatten()).reshape(len(time_ids), -1)
        added: torch.Tensor = self.base.add_embedding(torch.cat([pooled, sizes], dim=-1).to(dtype))
        return embedding + added
