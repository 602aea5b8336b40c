"""Which family a base model belongs to, told from its index or from the names and shapes in its header. Torch-free.

The client and the engine ask the same questions here, so that what would fail on a rented machine fails before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpurent_engine.families import FAMILIES, SD2, SD15, SDXL, Family
from gpurent_engine.families.record import Prediction
from gpurent_engine.spec import SpecError, TrainSpec

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor names and shapes, as a safetensors header has them."""

UNET, VAE = "model.diffusion_model.", "first_stage_model."
"""Prefixes of the parts in a single file: those of CompVis' and Stability's own training code."""
TEXT_PREFIXES: dict[str, tuple[str, ...]] = {
    "sd15": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}
_CHANNELS = {9: "an inpainting model", 8: "an instruct-pix2pix model", 5: "a depth-to-image model"}
_TITLES = {
    "StableDiffusion3Pipeline": "Stable Diffusion 3", "FluxPipeline": "Flux", "StableCascade": "Stable Cascade",
    "StableDiffusionInpaintPipeline": "an inpainting model", "StableDiffusionXLInpaintPipeline": "an inpainting model",
    "StableDiffusionDepth2ImgPipeline": "a depth-to-image model", "FluxKontextPipeline": "Flux",
    "StableDiffusionXLImg2ImgPipeline": "the SDXL refiner",
    "StableDiffusionInstructPix2PixPipeline": "an instruct-pix2pix model", "Lumina2Pipeline": "Lumina 2",
    "PixArtSigmaPipeline": "PixArt", "QwenImagePipeline": "Qwen-Image", "ZImagePipeline": "Z-Image",
}  # fmt: skip
_FOREIGN = {
    "joint_blocks.": "Stable Diffusion 3", "double_blocks.": "Flux", "edm_vpred.": "an EDM model such as CosXL",
    "edm_mean": "Playground 2.5", "control_model.": "a ControlNet",
}  # fmt: skip
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(?P<variant>\.fp16)?(-\d+-of-\d+)?\.safetensors")
TRAINED = ", ".join(family.title for family in FAMILIES.values())


FACTOR = 8
"""Pixels for each value of a latent, along one side, of every real Stable Diffusion model."""
SMALL = 256
"""Pixels below which a model is small on purpose, and no advice on its resolution is wanted."""


class NotTrainable(Exception):
    """The base is not one that this engine trains; the message says what it is instead."""


@dataclass(frozen=True)
class Detected:
    """What a base says of itself."""

    family: Family
    prediction: Prediction | None
    """None where it does not say."""
    zero_terminal_snr: bool = False
    factor: int = FACTOR
    """Pixels of a picture for each value of a latent, along one side."""
    depth: int = 0
    """Layers of the text encoder with the fewest; 0 for the family's usual number."""

    @property
    def layers(self) -> int:
        """Layers that ``clip_skip`` can choose from."""
        return self.depth or min(one.layers for one in self.family.text_encoders)


@dataclass(frozen=True)
class Agreed:
    """What configuration and base come to together; ``notes`` are for the user."""

    prediction: Prediction
    zero_terminal_snr: bool
    notes: tuple[tuple[str, str], ...]
    """Key and message."""


def agree(found: Detected, spec: TrainSpec) -> Agreed:
    """Settle what the UNet predicts. A base that says so itself is right; one that does not is what the keys say.

    Raises:
        SpecError: the configuration asks for another architecture than the base has.
    """
    title = found.family.title
    if spec.v2 and found.family is not SD2:
        raise SpecError("v2", f"is true, but the base is {title}: remove the key or name another base.")
    notes = []
    prediction: Prediction = found.prediction or "epsilon"
    if spec.v_parameterization:
        if found.prediction == "epsilon":
            notes.append(("v_parameterization", "The base says that it predicts epsilon; trained as v, as configured."))
        prediction = "v_prediction"
    elif prediction == "v_prediction":
        notes.append(("v_parameterization", "The base says that it predicts v, and is trained so."))
    zero = spec.zero_terminal_snr or found.zero_terminal_snr
    if zero and not spec.zero_terminal_snr:
        notes.append(("zero_terminal_snr", "The base was trained with zero terminal SNR; trained so as well."))
    if zero and prediction == "epsilon":
        notes.append(("zero_terminal_snr", "With an epsilon-predicting base the last time step teaches nothing."))
    if found.family.size_conditioning and SMALL <= min(spec.resolution) < found.family.side * 3 // 4:
        notes.append(("resolution", f"{title} was trained on {found.family.side} pixels; this run trains on fewer."))
    if spec.clip_skip and not found.family.text_encoders[0].normed:
        notes.append(("clip_skip", f"clip_skip has no effect on {title}, which always takes the last but one layer."))
    return Agreed(prediction, zero, tuple(notes))


def folder(path: Path, read: Callable[[Path], Mapping[str, Any]] | None = None) -> Detected:
    """Look at a diffusers folder; ``read`` gets its JSON files, ``read_json`` if it is None.

    Raises:
        NotTrainable: an index that cannot be read, or another kind of model.
    """
    read = read or read_json
    kind = str(read(path / "model_index.json").get("_class_name", ""))
    unet = read(path / "unet" / "config.json")
    named = [one for one in FAMILIES.values() if kind in one.pipelines]
    if not named:
        what = _TITLES.get(kind) or kind or "a model without a class name"
        raise NotTrainable(f"is {what}; this version trains {TRAINED}")
    family = named[0]
    if family in (SD15, SD2):  # 1.x and 2.x share a pipeline
        two = unet.get("cross_attention_dim") == SD2.context_width or unet.get("use_linear_projection")
        family = SD2 if two else SD15
    _check_channels(unet.get("in_channels", 4))
    scheduler = read(path / "scheduler" / "scheduler_config.json")
    said = scheduler.get("prediction_type", "epsilon")
    if said not in family.predictions:
        raise NotTrainable(f"predicts {said!r}; this version trains {' and '.join(family.predictions)}")
    return Detected(family, said, bool(scheduler.get("rescale_betas_zero_snr")), *_shape(path, family, read))


def _shape(path: Path, family: Family, read: Callable[[Path], Mapping[str, Any]]) -> tuple[int, int]:
    """``Detected.factor`` and ``depth`` as the parts of a folder say; a part that is not there is named elsewhere."""
    widths = read(path / "vae" / "config.json").get("block_out_channels") if (path / "vae").is_dir() else None
    factor = 2 ** (len(widths) - 1) if isinstance(widths, list) and 0 < len(widths) < 8 else FACTOR
    files = [path / one.folder / "config.json" for one in family.text_encoders]
    depths = [read(file).get("num_hidden_layers") for file in files if file.parent.is_dir()]
    return factor, min((one for one in depths if isinstance(one, int) and one > 0), default=0)


def single_file(shapes: Shapes) -> Detected:
    """Look at the header of a single ``.safetensors`` file.

    Raises:
        NotTrainable: a LoRA, another kind of model, or one that is not complete.
    """
    if any(name.startswith(("lora_unet_", "lora_te", "unet.down_blocks", "lycoris_")) for name in shapes):
        raise NotTrainable("is a LoRA, not a base model")
    for mark, what in _FOREIGN.items():
        if any(name.removeprefix(UNET).startswith(mark) for name in shapes):
            raise NotTrainable(f"is {what}; this version trains {TRAINED}")
    first = shapes.get(f"{UNET}input_blocks.0.0.weight")
    if first is not None and len(first) > 1:
        _check_channels(first[1])
    family = _family(shapes)
    prefixes = (UNET, VAE, *TEXT_PREFIXES[family.name])
    missing = [one.rstrip(".") for one in prefixes if not any(name.startswith(one) for name in shapes)]
    if missing:
        raise NotTrainable(f"is not a complete checkpoint: {', '.join(missing)} missing")
    # NoobAI and its descendants mark their files with two empty tensors
    return Detected(family, "v_prediction" if "v_pred" in shapes else None, "ztsnr" in shapes)


def _family(shapes: Shapes) -> Family:
    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in shapes)

    if has("conditioner.embedders.0.model.") and not has(TEXT_PREFIXES["sdxl"][0]):
        raise NotTrainable(f"is the SDXL refiner; this version trains {TRAINED}")
    if has("conditioner."):
        return SDXL
    return SD2 if has(TEXT_PREFIXES["sd2"][0]) else SD15


def _check_channels(channels: object) -> None:
    if channels != 4:
        what = _CHANNELS.get(channels if isinstance(channels, int) else 0, "another kind of model")
        raise NotTrainable(f"is {what}: its UNet takes {channels} channels instead of 4")


def weights(part: Path, *, half: bool) -> list[Path]:
    """Files that hold the weights of one part of a diffusers folder, whole or in shards; empty if there are none.

    Args:
        part: such as ``…/unet``.
        half: take the ``.fp16`` variant where there is one: half the bytes to send and to load. Never for a VAE, which
            runs in float32 and is small.
    """
    half = half and part.name != "vae"
    variants: dict[bool, list[Path]] = {True: [], False: []}
    for file in sorted(part.iterdir()) if part.is_dir() else ():
        match = _WEIGHTS.fullmatch(file.name)
        if match:
            variants[bool(match["variant"])].append(file)
    return variants[half] or variants[not half]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        NotTrainable: there is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NotTrainable(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise NotTrainable(f"{path} holds no JSON object")
    return document
