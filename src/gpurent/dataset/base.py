"""Where the base model comes from: a folder or file here, or the hub, from which the host pulls by itself.

Everything that would make the engine give up on a rented machine is looked for here, by the engine's own code: a family
that is not trained, pickled or missing weights, a LoRA in the place of a base model.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpurent.dataset.bounds import Bounds, Outside
from gpurent.dataset.manifest import Source
from gpurent.errors import ConfigError
from gpurent.localfiles import read_text
from gpurent.tensorfile import tensor_shapes
from gpurent.untrusted.data import parse
from gpurent_engine.families import FAMILIES, SD2, SD15, SDXL, Family, bpe, detect
from gpurent_engine.families.detect import Detected, NotTrainable

KEY = "pretrained_model_name_or_path"
USUAL = SD15.usual_base
MOVED = {"runwayml/stable-diffusion-v1-5": USUAL}
"""Withdrawn from the hub in 2024, yet still in many configurations; the named repository holds the same files."""
KNOWN: dict[str, Family] = {family.usual_base: family for family in FAMILIES.values()} | {
    "CompVis/stable-diffusion-v1-4": SD15,
}
BY_FILE: dict[str, str] = {
    "v1-5-pruned": USUAL, "v1-5-pruned-emaonly": USUAL, "v1-5-pruned-emaonly-fp16": USUAL,
    "sd-v1-4": "CompVis/stable-diffusion-v1-4",
    "v2-1_768-ema-pruned": SD2.usual_base, "sd_xl_base_1.0": SDXL.usual_base, "sd_xl_base_1.0_0.9vae": SDXL.usual_base,
}  # fmt: skip
"""Repositories of the hub with the models of files that everybody knows by name, without their suffix."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OTHERS = re.compile(r"(?i:(?<![a-z])(flux|sd3|stable-diffusion-3|stable-cascade|kolors|auraflow|z-image)(?![a-z]))")
_XL = re.compile(r"XL(?![a-z])|(?i:(?<![a-z])(xl|sdxl|pony|illustrious|noobai)(?![a-z]))")
_TWO = re.compile(r"(?i:stable-diffusion-2|(?<![a-z])sd-turbo(?![a-z]))")

CHECKPOINTS = (".safetensors", ".ckpt", ".pt")
MAX_JSON = 8 * 1024 * 1024
_SENT = re.compile(r".*\.(safetensors|json|txt|model)")


@dataclass(frozen=True)
class LocalFolder:
    """A diffusers folder; ``files`` are what is sent, each with its name inside the model."""

    path: Path
    found: Detected
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
    found: Detected
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
    found: Detected
    """By its name; it was not looked up."""
    download_bytes: int
    remark: str = ""
    """What the user had better know about it."""
    largest: str = ""
    """Its largest file, where the hub was asked."""
    target: None = None
    sources: tuple[Source, ...] = ()


BaseModel = LocalFolder | LocalCheckpoint | HubId


def resolve(name: str, here: Path, config: Path, *, half: bool = True) -> BaseModel:
    """Find out what ``pretrained_model_name_or_path`` means.

    Args:
        name: the value of the key.
        here: where relative paths start.
        config: named in messages.
        half: the training is in half precision: half-precision weights are sent or downloaded where there are some.

    Raises:
        ConfigError: a missing path, a folder that is not a diffusers model, a pickle, a family that is not trained yet.
    """
    path = here / Path(name).expanduser()
    if path.is_dir():
        return _folder(path.absolute(), config, half)
    if path.is_file():
        return _file(path.absolute(), config)
    local = name.startswith((".", "/", "~")) or path.suffix.lower() in CHECKPOINTS
    if _HUB_ID.fullmatch(name) and not local:
        return _hub(name, config, half)
    if path.suffix.lower() in CHECKPOINTS and path.stem in BY_FILE:
        found = _hub(BY_FILE[path.stem], config, half)
        remark = f"{name} is not on this computer; the host downloads the same model, {found.name}, from the hub."
        return replace(found, remark=remark)
    raise _wrong(
        config, f"{path} does not exist.", f"Name a diffusers folder, a .safetensors file, or a hub id such as {USUAL}."
    )


def counter(model: BaseModel | None) -> bpe.Counter:
    """Counts tokens as the base's tokenizer does; by CLIP's own vocabulary where it brings none that can be read."""
    if isinstance(model, LocalFolder):
        path = model.path / model.found.family.text_encoders[0].tokenizer / "merges.txt"
        try:
            return bpe.Counter(bpe.read_merges(read_text(path, MAX_JSON).splitlines()))
        except (OSError, ValueError):
            pass  # only newer releases write it into tokenizer.json
    return bpe.openai()


def _wrong(config: Path, message: str, hint: str) -> ConfigError:
    return ConfigError(f"{config}: {KEY}: {message}", hint=hint)


def _hub(name: str, config: Path, half: bool) -> HubId:
    if name in MOVED:
        now = MOVED[name]
        remark = f"{name} was withdrawn from the hub; {now} is used instead."
        return HubId(now, Detected(SD15, "epsilon"), SD15.download_bytes(half=half), remark)
    if name in KNOWN:
        family = KNOWN[name]
        return HubId(name, Detected(family, None), family.download_bytes(half=half))
    if _OTHERS.search(name):
        bases = ", ".join(family.usual_base for family in FAMILIES.values())
        raise _wrong(config, f"{name} looks like another family.", f"Trained are {detect.TRAINED}: {bases}.")
    family = SDXL if _XL.search(name) else SD2 if _TWO.search(name) else SD15
    remark = f"{name} was not looked up; by its name it is taken for a public {family.title} model."
    return HubId(name, Detected(family, None), family.download_bytes(half=half), remark)


def _inside(bounds: Bounds, path: Path, config: Path) -> Path:
    """Where a file of the model really lies."""
    try:
        return bounds.real(path)
    except Outside as error:
        hint = "Copy it there, or name the folder in which it lies; only files of the model's own folder are sent."
        raise _wrong(config, f"{error}.", hint) from error


def _file(path: Path, config: Path) -> LocalCheckpoint:
    if path.suffix.lower() != ".safetensors":
        hint = "Checkpoints that are pickles can run code when they are loaded; convert it to safetensors first."
        raise _wrong(config, f"{path.name} is not a .safetensors file.", hint)
    bounds = Bounds.around(path.parent)
    shapes = _shapes(_inside(bounds, path, config), path, config)
    try:
        return LocalCheckpoint(path, detect.single_file(shapes), bounds)
    except NotTrainable as error:
        hint = f"A complete checkpoint holds UNet, VAE and text encoder. A usual base is {USUAL}."
        raise _wrong(config, f"{path.name} {error}.", hint) from error


def _shapes(real: Path, path: Path, config: Path) -> dict[str, tuple[int, ...]]:
    try:
        return tensor_shapes(real)
    except (ValueError, OSError) as error:
        hint = "Download it again and compare its digest; in a git clone, run `git lfs pull`."
        raise _wrong(config, f"{path.name} is damaged or no safetensors file.", hint) from error


def _folder(path: Path, config: Path, half: bool) -> LocalFolder:
    bounds = Bounds.around(path)
    hint = "A diffusers model folder holds model_index.json and a folder for each part."
    missing = [part for part in ("model_index.json", "unet", "vae", "scheduler") if not (path / part).exists()]
    if missing:
        raise _wrong(config, f"{path} is not a diffusers model: {', '.join(missing)} missing.", hint)
    try:
        found = detect.folder(path, lambda file: _json(bounds, file, config))
    except NotTrainable as error:
        raise _wrong(config, f"{path} {error}.", f"A usual base is {USUAL}.") from error
    encoders = found.family.text_encoders
    weighted = ["unet", "vae", *(encoder.folder for encoder in encoders)]
    small = ["scheduler", *(encoder.tokenizer for encoder in encoders)]
    missing = [part for part in (*weighted, *small) if not (path / part).is_dir()]
    if missing:
        raise _wrong(config, f"{path} is not a diffusers model: {', '.join(missing)} missing.", hint)
    files = [path / "model_index.json", *_weights(path, weighted, config, half)]
    for part in small:
        files += [entry for entry in sorted((path / part).iterdir()) if _is_file(entry) and _SENT.fullmatch(entry.name)]
    for file in files:
        real = _inside(bounds, file, config)
        if file.suffix == ".safetensors":
            _shapes(real, file, config)  # a whole file, and not a git-lfs pointer to one
    return LocalFolder(path, found, tuple((file, file.relative_to(path).as_posix()) for file in files), bounds)


def _weights(path: Path, parts: list[str], config: Path, half: bool) -> list[Path]:
    """Configuration and weights of each part: no safety checker, no twins of the weights, no pickles."""
    files = []
    for part in parts:
        weights = detect.weights(path / part, half=half)
        if not weights:
            hint = "Weights are read from safetensors; pickles (.bin) are not, because loading one can run code."
            raise _wrong(config, f"{path / part} holds no .safetensors weights.", hint)
        files += [path / part / "config.json", *weights]
    return files


def _is_file(path: Path) -> bool:
    """A link counts: where it leads is looked at later."""
    return path.is_file() or path.is_symlink()


def _json(bounds: Bounds, path: Path, config: Path) -> dict[str, Any]:
    real = _inside(bounds, path, config) if os.path.lexists(path) else path
    try:
        document = parse(read_text(real, MAX_JSON), most=MAX_JSON)
    except (OSError, ValueError) as error:
        raise _wrong(config, f"{path} cannot be read: {error}.", "Download the model again.") from error
    if not isinstance(document, dict):
        raise _wrong(config, f"{path} holds no JSON object.", "Download the model again.")
    return document
