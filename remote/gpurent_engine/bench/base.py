"""A random base at the real shapes, and batches for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gpurent_engine import families, names
from gpurent_engine.bench.options import Row
from gpurent_engine.families import classes
from gpurent_engine.families.detect import Detected
from gpurent_engine.families.parts import Encoder, Parts
from gpurent_engine.networks.plan import UNET, Group, Layer, Plan
from gpurent_engine.step.graph import Tensors
from gpurent_engine.stepper import Batch
from gpurent_engine.text import TextInput

UNETS: dict[str, dict[str, Any]] = {
    "sd15": {
        "cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280),
    },
    "sd2": {
        "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
        "block_out_channels": (320, 640, 1280, 1280), "use_linear_projection": True,
    },
    "sdxl": {
        "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    family: {
        "cross_attention_dim": 32, "attention_head_dim": 2, "block_out_channels": (32, 64), "layers_per_block": 1,
        "norm_num_groups": 8, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "use_linear_projection": family != "sd15",
    }
    for family in UNETS
}  # fmt: skip
TINY["sdxl"] |= {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16 + 48,
    "cross_attention_dim": 32 + 16,
}  # fmt: skip
LAYERS = {"sd15": (12,), "sd2": (23,), "sdxl": (12, 32)}


@dataclass
class Model:
    """A random base of a family."""

    parts: Parts
    plan: Plan
    device: torch.device
    dtype: torch.dtype


def build(row: Row, device: torch.device, dtype: torch.dtype) -> Model:
    """The base of ``row`` on ``device``, with random weights, and the plan of its adapters."""
    kind = classes.unet()
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns of casting a model in which nothing minds being cast
    family = families.get(row.family)
    config = (TINY if row.tiny else UNETS)[row.family]
    with torch.device(device):
        unet: Any = kind(**config)
        texts = [_encoder(row, i) for i in range(len(family.text_encoders))] if row.text else []
    encoders = [
        Encoder(facts, model, tokenizer=None)  # type: ignore[arg-type]  # nothing is tokenised
        for facts, model in zip(family.text_encoders, texts, strict=False)
    ]
    for model in (unet, *texts):
        model.to(dtype).requires_grad_(False).eval()
    unet.to(memory_format=torch.channels_last)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, device="cpu") ** 2
    parts = Parts(
        found=Detected(family, "epsilon"),
        unet=unet,
        text_encoders=encoders,
        vae=None,
        alphas_cumprod=torch.cumprod(1 - betas, 0),
        vae_factor=8,
        vae_scale=family.latent_scale,
    )
    return Model(parts, _plan(parts, row.rank), device, dtype)


def _encoder(row: Row, index: int) -> Any:
    facts = families.get(row.family).text_encoders[index]
    width, heads = (32 if index == 0 else 16, 4) if row.tiny else (facts.width, facts.heads)
    layers = 2 if row.tiny else LAYERS[row.family][index]
    kind, settings = classes.clip(projected=facts.pooled)
    return kind(
        settings(
            vocab_size=100 if row.tiny else 49408,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            hidden_act=facts.activation,
            projection_dim=16 if row.tiny else width,
            eos_token_id=2,
        )
    )


def _plan(parts: Parts, rank: int) -> Plan:
    found = [
        Layer(UNET, site.module, names.unet_key(site, parts.family.sgm_names), rank, rank / 2)
        for site in names.unet_sites(parts.unet.config)
        if site.kind == "attention"
    ]
    groups = [Group(UNET, 1e-4, tuple(found))]
    for encoder in parts.text_encoders:
        facts = encoder.facts
        paths = names.text_sites(len(encoder.inner.encoder.layers))
        layers = tuple(Layer(facts.folder, p, names.text_key(facts.prefix, p), rank, rank / 2) for p in paths)
        groups.append(Group(facts.folder, 1e-5, layers))
    return Plan(tuple(groups))


class Draws:
    """Random batches like those of a run: noise from a CPU generator, everything else already on the device."""

    def __init__(self, row: Row, model: Model) -> None:
        self.row, self.model = row, model
        side = row.side or (64 if row.tiny else model.parts.family.side)
        self.shapes = [(side, side), *row.sides]
        self.generator = torch.Generator().manual_seed(0)
        self.turn = 0
        config = model.parts.unet.config
        total = row.batch * row.adapters
        self.hidden = self._normal(total, 77, config.cross_attention_dim).to(model.dtype) * 0.5
        self.sdxl = config.addition_embed_type == "text_time"
        pooled = 16 if row.tiny else 1280
        self.weight = torch.ones(total, device=model.device)
        self.sizes = {
            (width, height): torch.tensor([[height, width, 0, 0, height, width]] * total, device=model.device).float()
            for width, height in self.shapes
        }
        self.pooled = self._normal(total, pooled).to(model.dtype) if self.sdxl else None

    def _normal(self, *shape: int) -> torch.Tensor:
        drawn = torch.empty(shape, pin_memory=self.model.device.type == "cuda").normal_(generator=self.generator)
        return drawn.to(self.model.device, non_blocking=True)

    def batch(self) -> Batch:
        """The next one; sizes take turns."""
        row, device = self.row, self.model.device
        width, height = self.shapes[self.turn % len(self.shapes)]
        self.turn += 1
        total = row.batch * row.adapters
        shape = (total, 4, height // 8, width // 8)
        mean, jitter, noise = self._normal(*shape), self._normal(*shape), self._normal(*shape)
        times = torch.randint(0, 1000, (total,), generator=self.generator).to(device, non_blocking=True)
        tokens: list[torch.Tensor | None] = []
        for _ in self.model.parts.text_encoders:
            drawn = torch.randint(3, 99, (total, 1, 77), generator=self.generator)
            tokens.append(drawn.to(device, non_blocking=True))
        text = TextInput(tuple(tokens), (None,) * len(tokens), self.pooled)
        if not tokens:
            text = TextInput((None,), (self.hidden,), self.pooled)
        sizes = self.sizes[width, height] if self.sdxl else None
        return Batch(
            mean=mean,
            std=torch.full_like(mean, 0.1),
            jitter=jitter,
            noise=noise,
            times=times,
            weight=self.weight,
            text=text,
            sizes=sizes,
        )

    def inputs(self) -> Tensors:
        """The same for ``core.Core``."""
        batch = self.batch()
        found = {
            "mean": batch.mean, "std": batch.std, "jitter": batch.jitter, "noise": batch.noise, "times": batch.times,
            "weight": batch.weight,
        }  # fmt: skip
        for encoder, tokens in zip(self.model.parts.text_encoders, batch.text.tokens, strict=False):
            assert tokens is not None
            found[f"ids.{encoder.facts.folder}"] = tokens
        if not self.model.parts.text_encoders:
            found["text"] = self.hidden
        if batch.sizes is not None and self.pooled is not None:
            found |= {"pooled": self.pooled, "sizes": batch.sizes}
        return found
