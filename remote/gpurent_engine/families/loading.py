"""Read a base model of any family: a diffusers folder, a single ``.safetensors`` file, or a hub id.

Every tensor has to find its place and every place its tensor. Libraries are more forgiving: transformers 4 reads a text
encoder that transformers 5 saved, finds none of its names, keeps random weights and writes a line to the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gpurent_engine.families import Family, classes, detect, hub, layout, tokenizer
from gpurent_engine.families.detect import Detected, NotTrainable
from gpurent_engine.families.parts import Encoder, ModelError, Parts

Read = Callable[[], torch.Tensor]
"""Fetches one tensor from disk when it is wanted."""
NAMED = 5
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in a VAE's attention before diffusers 0.12; the usual base still has them."""


def load(base_model: str, *, half: bool = False, vae: str = "", dtype: torch.dtype = torch.float32) -> Parts:
    """Load a base on the CPU. Only safetensors weights are read, never pickles.

    Args:
        base_model: a folder, a file, or a hub id, which is downloaded.
        half: take half-precision files where there is a choice.
        vae: another VAE instead of the base's own: a diffusers folder or a ``.safetensors`` file.
        dtype: of UNet and text encoders. The VAE is float32: those of Stable Diffusion overflow in fp16.

    Raises:
        ModelError: it cannot be read, is not complete, or is not one that this engine trains.
        OSError: the disk is full.
    """
    try:
        path = Path(base_model)
        if path.is_file():
            parts = _from_file(path, dtype)
        else:
            parts = _from_folder(path if path.is_dir() else hub.download(base_model, half=half), dtype, half=half)
        if vae:
            parts.vae = _other_vae(Path(vae), parts.family)
            parts.vae_scale = float(parts.vae.config.scaling_factor)
    except NotTrainable as error:
        raise ModelError(f"{base_model} {error}") from error
    except SafetensorError as error:
        raise ModelError(f"{base_model} is damaged: {error}") from error
    return parts


def _from_folder(path: Path, dtype: torch.dtype, *, half: bool) -> Parts:
    found = detect.folder(path)
    family = found.family
    unet = _unet(detect.read_json(path / "unet" / "config.json"))
    _fill_from(unet, path / "unet", dtype, half)
    encoders = []
    for facts in family.text_encoders:
        model = _clip(detect.read_json(path / facts.folder / "config.json"), facts.pooled)
        _fill_from(model, path / facts.folder, dtype, half)
        encoders.append(Encoder(facts, model, tokenizer.read(path / facts.tokenizer, facts.pad)))
    vae = _vae(detect.read_json(path / "vae" / "config.json"))
    _fill_from(vae, path / "vae", torch.float32, half)
    signal = alphas_cumprod(detect.read_json(path / "scheduler" / "scheduler_config.json"))
    return _parts(found, unet, encoders, vae, signal=signal)


def _from_file(path: Path, dtype: torch.dtype) -> Parts:
    if path.suffix.lower() in (".ckpt", ".pt", ".bin"):
        raise NotTrainable("is a pickle, which can run code when it is loaded; convert it to .safetensors first")
    with _opened([path]) as tensors:
        shapes = {name: shape for name, (shape, _) in tensors.items()}
        found = detect.single_file(shapes)
        family = found.family
        used: set[str] = set()
        encoders = []
        pooled_width = 0
        for facts, prefix in zip(family.text_encoders, detect.TEXT_PREFIXES[family.name], strict=True):
            below = layout.below(shapes, prefix)
            config = layout.text_config(below, facts)
            pooled_width = config["projection_dim"]
            model = _clip(config, facts.pooled)
            used |= _move(model, layout.text_moves(config, below, facts), tensors, prefix, dtype=dtype)
            used |= {prefix + name for name in layout.unneeded_text(config, below, facts)}
            encoders.append(Encoder(facts, model, tokenizer.openai(facts.pad)))
        below = layout.below(shapes, detect.UNET)
        config = layout.unet_config(below, family, pooled_width)
        unet = _unet(config)
        used |= _move(unet, layout.unet_moves(config, below), tensors, detect.UNET, dtype=dtype)
        below = layout.below(shapes, detect.VAE)
        config = layout.vae_config(below, family.latent_scale)
        vae = _vae(config)
        used |= _move(vae, layout.vae_moves(config, below), tensors, detect.VAE, dtype=torch.float32)
        left = [name for name in shapes if name not in used and not layout.IGNORED.fullmatch(name)]
        if left:
            raise NotTrainable(f"holds tensors that belong to no part of {family.title}: {_listed(left)}")
    return _parts(found, unet, encoders, vae, signal=alphas_cumprod({}))


def _parts(found: Detected, unet: Any, encoders: list[Encoder], vae: Any, *, signal: torch.Tensor) -> Parts:
    return Parts(
        found=found, unet=unet, text_encoders=encoders, vae=vae, alphas_cumprod=signal,
        vae_factor=2 ** (len(vae.config.block_out_channels) - 1), vae_scale=float(vae.config.scaling_factor),
    )  # fmt: skip


def alphas_cumprod(config: Mapping[str, Any]) -> torch.Tensor:
    """Product of 1 - beta up to each step, float32 ``[steps]``, from a ``scheduler_config.json`` or its defaults.

    Raises:
        NotTrainable: a schedule that none of the families has.
    """
    steps = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))
    kind = config.get("beta_schedule", "scaled_linear")
    if config.get("trained_betas"):
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    elif kind == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float32)
    else:
        raise NotTrainable(f"has a noise schedule of the kind {kind!r}, which this version does not know")
    return torch.cumprod(1.0 - betas, dim=0)


def _unet(config: Mapping[str, Any]) -> Any:
    return _empty(classes.unet(), config)


def _vae(config: Mapping[str, Any]) -> Any:
    return _empty(classes.vae(), config)


def _empty(kind: Any, config: Mapping[str, Any]) -> Any:
    """A diffusers module without memory: drawing random weights for it would take longer than reading the real ones."""
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        with torch.device("meta"):
            return kind.from_config(known)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise NotTrainable(f"has a configuration that {kind.__name__} does not take: {error}") from error


def _clip(config: Mapping[str, Any], projected: bool) -> Any:
    kind, settings = classes.clip(projected=projected)
    known = {key: value for key, value in config.items() if key not in ("architectures", "torch_dtype", "dtype")}
    try:
        with torch.device("meta"):
            return kind(settings(**known))
    except (TypeError, ValueError, KeyError) as error:
        raise NotTrainable(f"has a text encoder whose configuration is not CLIP's: {error}") from error


Tensors = Mapping[str, tuple[tuple[int, ...], Read]]


@contextmanager
def _opened(files: Iterable[Path]) -> Iterator[Tensors]:
    """Names, shapes and readers of all tensors in safetensors files; none is in memory yet."""
    with ExitStack() as stack:
        found: dict[str, tuple[tuple[int, ...], Read]] = {}
        for path in files:
            file = stack.enter_context(safe_open(path, framework="pt"))
            for name in file.keys():  # noqa: SIM118 - not a mapping
                shape = tuple(file.get_slice(name).get_shape())
                found[name] = (shape, lambda file=file, name=name: file.get_tensor(name))  # type: ignore[misc]
        yield found


def _fill_from(module: Any, folder: Path, dtype: torch.dtype, half: bool) -> None:
    """Fill one part of a diffusers folder."""
    files = detect.weights(folder, half=half)
    if not files:
        raise NotTrainable(f"holds no .safetensors weights in {folder.name}")
    with _opened(files) as tensors:
        places = {_canonical(name): read for name, (_, read) in tensors.items() if not layout.IGNORED.fullmatch(name)}
        _fill(module, places, dtype, folder.name)


def _move(module: Any, moves: Iterable[layout.Move], tensors: Tensors, prefix: str, *, dtype: torch.dtype) -> set[str]:
    """Fill one part from a single file; returns the names that were used."""
    places: dict[str, Read] = {}
    used = set()
    for move in moves:
        source = prefix + move.source
        if source not in tensors:
            raise NotTrainable(f"is not a complete checkpoint: {source} missing")
        places[_canonical(move.target)] = lambda read=tensors[source][1], take=move.take: _taken(read(), take)  # type: ignore[misc]
        used.add(source)
    _fill(module, places, dtype, prefix.rstrip("."))
    return used


def _taken(tensor: torch.Tensor, take: layout.Take) -> torch.Tensor:
    if take == "transposed":
        return tensor.t().contiguous()
    if take == "linear":
        return tensor.flatten(1)
    if take in ("q", "k", "v"):
        return tensor.chunk(3)["qkv".index(take)].contiguous()
    return tensor


def _canonical(name: str) -> str:
    """One spelling for names that differ between releases of diffusers and transformers."""
    name = name.removeprefix("text_model.")
    if ".attentions." in name:
        head, _, leaf = name.rpartition(".")
        parent, _, last = head.rpartition(".")
        if last in _OLD_ATTENTION:
            return f"{parent}.{_OLD_ATTENTION[last]}.{leaf}"
    return name


def _fill(module: Any, places: Mapping[str, Read], dtype: torch.dtype, part: str) -> None:
    """Put every tensor where it belongs.

    Raises:
        NotTrainable: naming what has no tensor, what has no place, and what has another shape.
    """
    wanted = {_canonical(name): name for name in module.state_dict()}
    missing = [name for name in wanted if name not in places]
    extra = [name for name in places if name not in wanted and not name.endswith("position_ids")]
    if missing or extra:
        complaints = [f"{_listed(missing)} missing"] if missing else []
        complaints += [f"{_listed(extra)} not known"] if extra else []
        raise NotTrainable(f"does not fit its architecture: in {part}, {'; '.join(complaints)}")
    shapes = {name: tuple(one.shape) for name, one in module.state_dict().items()}
    ready = {}
    for place, name in wanted.items():
        tensor = places[place]()
        if tensor.dim() == 4 and tuple(tensor.shape) == (*shapes[name], 1, 1):
            tensor = tensor.flatten(1)  # a VAE's attention as 1×1 convolutions
        if tuple(tensor.shape) != shapes[name]:
            what = f"{place} has the shape {list(tensor.shape)} instead of {list(shapes[name])}"
            raise NotTrainable(f"does not fit its architecture: in {part}, {what}")
        ready[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    module.load_state_dict(ready, strict=True, assign=True)
    _position_ids(module, part)
    module.requires_grad_(False).eval()


def _position_ids(module: Any, part: str) -> None:
    """CLIP counts its positions in a buffer that no file holds."""
    for name, buffer in list(module.named_buffers()):
        if not buffer.is_meta:
            continue
        parent, _, leaf = name.rpartition(".")
        if leaf != "position_ids":
            raise NotTrainable(f"does not fit its architecture: in {part}, {name} has no value")
        module.get_submodule(parent).register_buffer(
            leaf, torch.arange(buffer.shape[-1]).expand((1, -1)), persistent=False
        )


def _other_vae(path: Path, family: Family) -> Any:
    if path.is_dir():
        inside = path / "vae" if (path / "vae").is_dir() else path
        vae = _vae(detect.read_json(inside / "config.json"))
        _fill_from(vae, inside, torch.float32, half=False)
        return vae
    if path.suffix.lower() != ".safetensors":
        raise NotTrainable(f"cannot take the VAE {path.name}: it is not a .safetensors file")
    with _opened([path]) as tensors:
        shapes = {name: shape for name, (shape, _) in tensors.items()}
        prefix = detect.VAE if any(name.startswith(detect.VAE) for name in shapes) else ""
        below = layout.below(shapes, prefix)
        config = layout.vae_config(below, family.latent_scale)
        vae = _vae(config)
        _move(vae, layout.vae_moves(config, below), tensors, prefix, dtype=torch.float32)
    return vae


def _listed(found: list[str]) -> str:
    more = len(found) - NAMED
    return ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")
