"""Where the base model comes from: a folder or file here, or the hub by the host itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from gpurent.errors import ConfigError
from gpurent.plan.typical import BASE_BYTES

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FAMILIES = {"StableDiffusionPipeline": "sd15"}
PARTS = ("model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler")
_WEIGHTS = re.compile(r".*\.(safetensors|json|txt|model)")


@dataclass(frozen=True)
class BaseModel:
    """``files`` to send with their names inside the model; empty when the host downloads ``name``."""

    name: str
    family: str
    files: tuple[tuple[Path, str], ...] = ()
    target: str | None = None
    download_bytes: int = 0


def resolve(name: str, here: Path, config: Path) -> BaseModel:
    """Find out what ``pretrained_model_name_or_path`` means.

    Raises:
        ConfigError: a path that is not there, a folder that is no diffusers model, a pickle, a family not trained yet.
    """
    path = here / Path(name).expanduser()
    if path.is_dir():
        return _folder(path.resolve(), config)
    if path.is_file():
        return _file(path.resolve(), config)
    if _HUB_ID.fullmatch(name) and not name.startswith("."):
        return BaseModel(name, "sd15", download_bytes=BASE_BYTES["sd15"])
    raise ConfigError(
        f"{config}: pretrained_model_name_or_path: {path} does not exist.",
        hint="Name a diffusers folder, a .safetensors file, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5.",
    )


def _file(path: Path, config: Path) -> BaseModel:
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"{config}: pretrained_model_name_or_path: {path.name} is not a .safetensors file.",
            hint="Checkpoints that are pickles can run code when loaded; convert it to safetensors first.",
        )
    return BaseModel(path.name, "sd15", ((path, path.name),), f"base/{path.name}")


def _folder(path: Path, config: Path) -> BaseModel:
    missing = [part for part in PARTS if not (path / part).exists()]
    if missing:
        raise ConfigError(
            f"{config}: pretrained_model_name_or_path: {path} is no diffusers model: {', '.join(missing)} missing.",
            hint="A diffusers model folder holds model_index.json and a folder for each part.",
        )
    kind = json.loads((path / "model_index.json").read_text(encoding="utf-8")).get("_class_name", "")
    if kind not in _FAMILIES:
        raise ConfigError(
            f"{config}: pretrained_model_name_or_path: {path} holds a {kind or 'model without a class name'}.",
            hint="This version trains Stable Diffusion 1.x.",
        )
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and _WEIGHTS.fullmatch(file.name)]
    inside = tuple((file, file.relative_to(path).as_posix()) for file in files)
    return BaseModel(path.name, _FAMILIES[kind], inside, "base")
