"""What a model family is: facts that planning, checking, training and export all read. Torch-free.

A family is a record, not a branch in the code. Whatever differs between Stable Diffusion 1.x, 2.x and XL stands in
one ``Family``; the code that trains reads it and asks for no names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Prediction = Literal["epsilon", "v_prediction"]


def blocks(widths: tuple[int, ...], depths: tuple[int, ...]) -> Mapping[str, Any]:
    """A UNet's blocks with two resnets each; ``depths`` are transformer blocks a level, 0 for none."""
    down = tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths)
    up = tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths))
    # diffusers takes the last level's depth for the middle block as well, also where that level has no transformers
    deep = tuple(depth or 1 for depth in depths)
    return MappingProxyType({
        "block_out_channels": widths, "layers_per_block": 2, "transformer_layers_per_block": deep,
        "down_block_types": down, "up_block_types": up,
    })  # fmt: skip


class UnknownFamily(ValueError):
    """No record bears that name."""


@dataclass(frozen=True)
class TextEncoder:
    """A CLIP text encoder and how the family conditions its UNet with it.

    ``layer`` counts hidden states from the end: 1 is the output of the last layer, 2 the one before it.
    """

    folder: str
    tokenizer: str
    prefix: str
    """Of its layers in a LoRA file, without the separating underscore."""
    layer: int = 1
    normed: bool = True
    """Whether the final layer norm follows. SDXL takes its hidden states without it."""
    pooled: bool = False
    """Whether it has a projection whose output conditions the UNet as well."""
    layers: int = 12
    width: int = 768
    heads: int = 12
    activation: str = "quick_gelu"
    pad: int | None = None
    """Token id that fills up a caption; None is the end token. OpenAI's encoder used the latter, OpenCLIP's use 0."""


@dataclass(frozen=True)
class Work:
    """What one picture costs to train, for predicting time.

    Counted with torch's FlopCounterMode on the real architecture: forward and backward through the UNet with a frozen
    base and a rank-16 LoRA. Text encoders and a cached VAE are below 1 % of it.
    """

    tflop: tuple[tuple[int, float], ...]
    """TFLOP of one square picture, by side length in pixels."""
    recompute: float
    """Work with full gradient checkpointing ÷ without."""
    launches: float
    """The part of a step that does not grow with the batch ÷ that of Stable Diffusion 1.5."""
    reached: float
    """TFLOP/s that the fast step reaches on an H200 beside that part (docs/benchmarks.md, 26 November 2026)."""


@dataclass(frozen=True)
class Memory:
    """GPU memory in MiB, for choosing a card."""

    weights_mb: int
    """UNet and text encoders in half precision."""
    image_mb: int
    """Activations of one picture of ``Family.side`` squared without gradient checkpointing."""
    checkpointed: float
    """Share of the activations that gradient checkpointing leaves."""
    rank_mb: float
    """Weights, gradients and two moments in float32 for each rank: 16 bytes a parameter."""
    text_mb: int
    """Activations of the text encoders, if they are trained."""


@dataclass(frozen=True)
class Family:
    """One model family. Sizes in pixels and bytes."""

    name: str
    """As in ``--family`` and in events."""
    title: str
    """For people."""
    pipelines: tuple[str, ...]
    """Class names in a diffusers folder's ``model_index.json``."""
    text_encoders: tuple[TextEncoder, ...]
    head_channels: int | None
    """Channels of one attention head in the UNet; None where every attention has ``heads`` heads."""
    heads: int
    context_width: int
    """Width of the hidden states that the UNet attends to."""
    unet: Mapping[str, Any] = field(hash=False)
    """Blocks of the usual UNet, as in diffusers' configuration, for ``names.blocks`` where no base is at hand."""
    linear_projection: bool
    """Whether ``proj_in`` and ``proj_out`` of the UNet's transformers are linear layers or 1×1 convolutions."""
    sgm_names: bool
    """Whether LoRA files name the UNet's layers as in Stability's own code (``input_blocks_4_1_…``)."""
    size_conditioning: bool
    """Whether original size, crop and target size condition the UNet."""
    latent_scale: float
    predictions: tuple[Prediction, ...]
    """What the UNet of a base of this family can predict; the usual kind first."""
    base_model_version: str
    """``ss_base_model_version`` in a LoRA file, for ``epsilon``; readers tell families by it."""
    v_suffix: str
    """Appended to it for ``v_prediction``."""
    architecture: str
    """``modelspec.architecture`` for ``epsilon``, without ``/lora``."""
    v_architecture: str
    implementation: str
    """``modelspec.implementation``."""
    side: int
    """Edge length of the pictures it was trained on."""
    usual_base: str
    """Hub id of the base that most people use."""
    base_bytes: int
    """Size of its UNet and text encoders in half precision."""
    vae_bytes: int
    """Size of its VAE in float32."""
    bytes_per_rank: int
    """Size of a LoRA file in half precision for each rank, text encoders included."""
    work: Work
    memory: Memory

    def download_bytes(self, *, half: bool) -> int:
        """What a host downloads of a base on the hub; repositories hold float32 and, most of them, fp16."""
        return self.base_bytes * (1 if half else 2) + self.vae_bytes
