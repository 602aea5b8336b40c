"""Where the base model comes from: a folder or file here, or the hub, from which the host pulls by itself.

Everything that would make the engine give up on a rented machine is looked for here: wrong family, v-prediction,
pickled or missing weights, a LoRA in the place of a base model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpurent.dataset.bounds import Bounds, Outside
from gpurent.dataset.manifest import Source
from gpurent.errors import ConfigError
from gpurent.localfiles import read_text
from gpurent.tensorfile import tensor_names
from gpurent.untrusted.data import parse
from gpurent_engine.families import SD15

KEY = "pretrained_model_name_or_path"
USUAL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
MOVED = {"runwayml/stable-diffusion-v1-5": USUAL}
"""Withdrawn from the hub in 2024, yet still in many configurations; the named repository holds the same files."""
KNOWN = frozenset((USUAL, "CompVis/stable-diffusion-v1-4"))
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OTHER_FAMILY = re.compile(
    r"XL(?![a-z])|(?i:(?<![a-z])(xl|sdxl|flux|sd3|sd-turbo|stable-cascade)(?![a-z])|stable-diffusion-[23])"
)

MAX_JSON = 8 * 1024 * 1024
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_WEIGHTED = ("unet", "vae", "text_encoder")
_SENT = re.compile(r".*\.(safetensors|json|txt|model)")
_PLAIN = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors")
"""Weights that are loaded without naming a variant, whole or in shards."""


@dataclass(frozen=True)
class LocalFolder:
    """A diffusers folder; ``files`` are what is sent, each with its name inside the model."""

    path: Path
    family: str
    files: tuple[tuple[Path, str], ...]
    bounds: Bounds
    target: str = "base"
    download_bytes: int = 0

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is sent."""
        return tuple(Source(path, f"{self.target}/{inside}", self.bounds) for path, inside in self.files)

    @property
    def name(self) -> str:
        """For people."""
        return self.path.name


@dataclass(frozen=True)
class LocalCheckpoint:
    """A single ``.safetensors`` file."""

    path: Path
    family: str
    bounds: Bounds
    download_bytes: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return self.path.name

    @property
    def target(self) -> str:
        """Where it lies below the job's folder on the host."""
        return f"base/{self.path.name}"

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is sent."""
        return (Source(self.path, self.target, self.bounds),)


@dataclass(frozen=True)
class HubId:
    """A repository of the Hugging Face hub; nothing is sent."""

    name: str
    family: str
    download_bytes: int
    remark: str = ""
    """What the user had better know about it."""
    target: None = None
    sources: tuple[Source, ...] = ()


BaseModel = LocalFolder | LocalCheckpoint | HubId


def resolve(name: str, here: Path, config: Path) -> BaseModel:
    """Find out what ``pretrained_model_name_or_path`` means.

    Args:
        name: the value of the key.
        here: where relative paths start.
        config: named in messages.

    Raises:
        ConfigError: a path that is not there, a folder that is no diffusers model, a pickle, a family not trained yet.
    """
    path = here / Path(name).expanduser()
    if path.is_dir():
        return _folder(path.absolute(), config)
    if path.is_file():
        return _file(path.absolute(), config)
    local = name.startswith((".", "/", "~")) or path.suffix in (".safetensors", ".ckpt", ".pt")
    if _HUB_ID.fullmatch(name) and not local:
        return _hub(name, config)
    raise _wrong(
        config, f"{path} does not exist.", f"Name a diffusers folder, a .safetensors file, or a hub id such as {USUAL}."
    )


def _wrong(config: Path, message: str, hint: str) -> ConfigError:
    return ConfigError(f"{config}: {KEY}: {message}", hint=hint)


def _other_family(config: Path, what: str) -> ConfigError:
    return _wrong(config, f"{what}; this version trains Stable Diffusion 1.x.", f"A usual base is {USUAL}.")


def _hub(name: str, config: Path) -> HubId:
    if name in MOVED:
        now = MOVED[name]
        return HubId(now, "sd15", SD15.base_bytes, f"{name} was withdrawn from the hub; {now} is used instead.")
    if name not in KNOWN and _OTHER_FAMILY.search(name):
        raise _other_family(config, f"{name} looks like another family")
    remark = "" if name in KNOWN else f"{name} was not looked up; it is taken for a public Stable Diffusion 1.x model."
    return HubId(name, "sd15", SD15.base_bytes, remark)


def _inside(bounds: Bounds, path: Path, config: Path) -> Path:
    """Where a file of the model really lies."""
    try:
        return bounds.real(path)
    except Outside as error:
        hint = "Copy it there, or name the folder in which it lies; only files of the model's own folder are sent."
        raise _wrong(config, f"{error}.", hint) from error


def _file(path: Path, config: Path) -> LocalCheckpoint:
    if path.suffix != ".safetensors":
        hint = "Checkpoints that are pickles can run code when they are loaded; convert it to safetensors first."
        raise _wrong(config, f"{path.name} is not a .safetensors file.", hint)
    bounds = Bounds.around(path.parent)
    names = _tensor_names(_inside(bounds, path, config), config)
    if any(name.startswith(("lora_unet_", "lora_te_", "unet.down_blocks")) for name in names):
        raise _wrong(config, f"{path.name} is a LoRA, not a base model.", f"A usual base is {USUAL}.")
    for prefix, family in (
        ("conditioner.embedders.", "is an SDXL model"), ("cond_stage_model.model.", "is a Stable Diffusion 2.x model"),
    ):  # fmt: skip
        if any(name.startswith(prefix) for name in names):
            raise _other_family(config, f"{path.name} {family}")
    parts = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.")
    missing = [part.rstrip(".") for part in parts if not any(name.startswith(part) for name in names)]
    if missing:
        hint = "A complete checkpoint holds UNet, VAE and text encoder under Stable Diffusion's own names."
        raise _wrong(config, f"{path.name} is no complete checkpoint: {', '.join(missing)} missing.", hint)
    return LocalCheckpoint(path, "sd15", bounds)


def _tensor_names(path: Path, config: Path) -> list[str]:
    try:
        return tensor_names(path)
    except (ValueError, OSError) as error:
        raise _broken(path, config) from error


def _broken(path: Path, config: Path) -> ConfigError:
    return _wrong(
        config, f"{path.name} is damaged or no safetensors file.", "Download it again and compare its digest."
    )


def _folder(path: Path, config: Path) -> LocalFolder:
    bounds = Bounds.around(path)
    missing = [part for part in ("model_index.json", *PARTS) if not (path / part).exists()]
    if missing:
        hint = "A diffusers model folder holds model_index.json and a folder for each part."
        raise _wrong(config, f"{path} is no diffusers model: {', '.join(missing)} missing.", hint)
    files = _parts(path)
    for file, _ in files:
        _inside(bounds, file, config)
    kind = _json(path / "model_index.json", config).get("_class_name", "")
    if kind != "StableDiffusionPipeline":
        raise _other_family(config, f"{path} holds a {kind or 'model without a class name'}")
    if _json(path / "unet" / "config.json", config).get("cross_attention_dim") == 1024:
        raise _other_family(config, f"{path} is a Stable Diffusion 2.x model")
    predicts = _json(path / "scheduler" / "scheduler_config.json", config).get("prediction_type", "epsilon")
    if predicts != "epsilon":
        raise _wrong(config, f"{path} predicts {predicts}; this version trains epsilon.", f"A usual base is {USUAL}.")
    for part in _WEIGHTED:
        if not any(_PLAIN.fullmatch(file.name) for file in (path / part).iterdir()):
            hint = "Weights are read from safetensors without a variant in their name; pickles (.bin) are not."
            raise _wrong(config, f"{path / part} holds no .safetensors weights.", hint)
    for file, _ in files:
        if file.suffix == ".safetensors":
            _tensor_names(file, config)
    return LocalFolder(path, "sd15", tuple(files), bounds)


def _parts(path: Path) -> list[tuple[Path, str]]:
    """What loading needs: no safety checker, no half-precision twins of the weights, no pickles."""
    files = [path / "model_index.json"]
    for part in PARTS:
        for file in sorted((path / part).iterdir()):
            twin = file.suffix == ".safetensors" and not _PLAIN.fullmatch(file.name)
            if (file.is_file() or file.is_symlink()) and _SENT.fullmatch(file.name) and not twin:
                files.append(file)
    return [(file, file.relative_to(path).as_posix()) for file in files]


def _json(path: Path, config: Path) -> dict[str, Any]:
    try:
        document = parse(read_text(path, MAX_JSON), most=MAX_JSON)
    except (OSError, ValueError) as error:
        raise _wrong(config, f"{path} cannot be read: {error}.", "Download the model again.") from error
    if not isinstance(document, dict):
        raise _wrong(config, f"{path} holds no JSON object.", "Download the model again.")
    return document
