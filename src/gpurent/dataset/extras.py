"""Files that a training names besides its base and its pictures: another VAE, LoRAs to start from or to merge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gpurent.dataset.bounds import Bounds, Outside
from gpurent.dataset.manifest import Source
from gpurent.errors import ConfigError
from gpurent.tensorfile import tensor_shapes
from gpurent_engine.spec import TrainSpec

FOLDER = "extra"


def named(spec: TrainSpec, here: Path, config: Path) -> tuple[TrainSpec, tuple[Source, ...]]:
    """The training with its files where the host will have them, and those files.

    Args:
        spec: as read.
        here: where relative paths start.
        config: for messages.

    Raises:
        ConfigError: a file is missing, is damaged or is not a safetensors file.
    """
    sources: list[Source] = []

    def sent(key: str, text: str) -> str:
        path = here / Path(text).expanduser()
        if key == "vae" and path.is_dir():
            return _folder(key, path, config, sources)
        target = f"{FOLDER}/{len(sources)}-{path.name}"
        sources.append(_source(key, path, target, config))
        return target

    changed = replace(
        spec,
        vae=sent("vae", spec.vae) if spec.vae else "",
        network_weights=sent("network_weights", spec.network_weights) if spec.network_weights else "",
        base_weights=tuple(sent("base_weights", base_weight) for base_weight in spec.base_weights),
    )
    return changed, tuple(sources)


def _source(key: str, path: Path, target: str, config: Path) -> Source:
    if path.suffix.lower() != ".safetensors":
        raise ConfigError(
            f"{config}: {key}: {path} is not a .safetensors file.",
            hint="Pickles (.pt, .ckpt) can run code when they are loaded; convert it to safetensors first.",
        )
    try:
        bounds = Bounds.around(path.parent)
        tensor_shapes(bounds.real(path))
    except (OSError, ValueError, Outside) as error:
        raise ConfigError(f"{config}: {key}: {path} cannot be used: {error}.", hint="Name an existing file.") from error
    return Source(path, target, bounds)


def _folder(key: str, path: Path, config: Path, sources: list[Source]) -> str:
    """A VAE as diffusers keeps it: its configuration and its weights."""
    inside = path / "vae" if (path / "vae").is_dir() else path
    weights = sorted(inside.glob("*.safetensors"))
    if not (inside / "config.json").is_file() or not weights:
        raise ConfigError(
            f"{config}: {key}: {path} is not a VAE.",
            hint="A folder of diffusers holds config.json and diffusion_pytorch_model.safetensors; a file is fine too.",
        )
    target = f"{FOLDER}/vae"
    full = [weight for weight in weights if ".fp16." not in weight.name] or weights
    sources += [_source(key, file, f"{target}/{file.name}", config) for file in full]
    sources.append(Source(inside / "config.json", f"{target}/config.json", Bounds.around(inside)))
    return target
