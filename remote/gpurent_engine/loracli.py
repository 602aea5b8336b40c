"""``python -m gpurent_engine lora show|convert|merge|resize|extract``: work on LoRA files."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from gpurent_engine.dialects import Spelled
    from gpurent_engine.families import Family

PRECISIONS = ("float", "fp16", "bf16")


class Refused(Exception):
    """An argument that cannot be followed; the message is for the user."""


def add(commands: Any) -> None:
    """Add the commands to the engine's own."""
    parser = commands.add_parser("lora", help="show, convert, merge, resize or extract LoRA files")
    actions = parser.add_subparsers(required=True)
    show = actions.add_parser("show", help="say what a file holds")
    show.add_argument("file", type=Path)
    show.add_argument("--json", action="store_true")
    show.set_defaults(act=_show)
    convert = actions.add_parser("convert", help="write it in another program's spelling or precision")
    convert.add_argument("file", type=Path)
    convert.add_argument("--to", choices=("kohya", "diffusers"), required=True)
    convert.set_defaults(act=_convert)
    merge = actions.add_parser("merge", help="one file for several, or bake them into a base model")
    merge.add_argument("files", nargs="+", metavar="FILE[:STRENGTH]")
    merge.add_argument("--rank", type=int, help="lower the rank of the result; default: the sum of the ranks")
    merge.add_argument("--base", help="bake into this base model, and write a model instead of a LoRA")
    merge.set_defaults(act=_merge)
    resize = actions.add_parser("resize", help="lower the rank")
    resize.add_argument("file", type=Path)
    resize.add_argument("--rank", type=int, required=True)
    resize.add_argument("--keep", type=float, default=1.0, help="share of the squared norm, e.g. 0.98: lower per layer")
    resize.set_defaults(act=_resize)
    extract = actions.add_parser("extract", help="what a fine-tuned model added to its base, as a LoRA")
    extract.add_argument("file", help="the fine-tuned model")
    extract.add_argument("--base", required=True)
    extract.add_argument("--rank", type=int, default=32)
    extract.add_argument("--conv-rank", type=int, default=0, help="of 3×3 convolutions; 0 leaves them out")
    extract.set_defaults(act=_extract)
    for one in (show, convert, merge, resize):
        one.add_argument("--family", help="sd15, sd2 or sdxl, if the file does not tell")
    for one in (convert, merge, resize, extract):
        one.add_argument("--out", type=Path, required=True)
        one.add_argument("--precision", choices=PRECISIONS, help="default: that of the input, fp16 for extract")
        one.add_argument("--force", action="store_true", help="replace an existing file")
        one.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run one command; wrong input is a sentence and status 2."""
    from gpurent_engine.families import UnknownFamily
    from gpurent_engine.families.parts import ModelError
    from gpurent_engine.lorafile import NotALora

    try:
        if getattr(options, "out", None) is not None:
            _check_out(options.out, force=options.force)
        status: int = options.act(options)
    except (Refused, NotALora, ModelError, UnknownFamily, OSError) as error:
        print(f"gpurent lora: {error}", file=sys.stderr)
        return 2
    return status


def _check_out(out: Path, *, force: bool) -> None:
    if out.exists() and not force:
        raise Refused(f"{out} exists already; --force replaces it.")
    if out.suffix != ".safetensors":
        raise Refused(f"{out} must end in .safetensors.")


def _read(path: Path, options: argparse.Namespace) -> Spelled:
    from gpurent_engine import dialects, families

    found = dialects.read(path, families.get(options.family) if options.family else None)
    if found.unknown:
        print(
            f"{path}: {len(found.unknown)} keys are no layer of {found.family.title}, such as {found.unknown[0]}.",
            file=sys.stderr,
        )
    return found


def _show(options: argparse.Namespace) -> int:
    facts = described(_read(options.file, options), options.file)
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    for key, value in facts.items():
        if key == "parts":
            for part, one in value.items():
                print(f"{part}: {one['layers']} layers, norm {one['norm']:.4g}, {one['zero']} without effect")
        elif value not in (None, [], {}, ""):
            print(f"{key.replace('_', ' ')}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0


def described(found: Spelled, path: Path) -> dict[str, Any]:
    """What a file holds, JSON-ready."""
    from gpurent_engine import lorafile

    file, meta = found.file, found.file.metadata
    ranks, alphas = lorafile.network_settings(file)
    parts: dict[str, dict[str, Any]] = {}
    for key, layer in file.layers.items():
        part = parts.setdefault(key.split("_text_model_")[0].removesuffix("_") if "_te" in key[:9] else "lora_unet", {
            "layers": 0, "norm": 0.0, "zero": 0,
        })  # fmt: skip
        norm = layer.norm() if layer.kind in ("lora", "full") else 0.0
        part["layers"] += 1
        part["norm"] = (part["norm"] ** 2 + norm**2) ** 0.5
        part["zero"] += not norm
    tags = lorafile.json_value(meta, "ss_tag_frequency")
    return {
        "file": str(path), "bytes": path.stat().st_size, "family": found.family.name, "spelling": found.dialect,
        "kinds": sorted({layer.kind for layer in file.layers.values()}),
        "dtype": str(file.dtype).removeprefix("torch."),
        "ranks": ranks, "alphas": alphas, "parts": parts, "not_finite": file.not_finite(),
        "unknown": list(found.unknown), "name": meta.get("ss_output_name"), "title": meta.get("modelspec.title"),
        "trigger_phrase": meta.get("modelspec.trigger_phrase"), "prediction": meta.get("modelspec.prediction_type"),
        "base": meta.get("ss_sd_model_name"), "steps": meta.get("ss_steps"), "epoch": meta.get("ss_epoch"),
        "learning_rate": meta.get("ss_learning_rate"), "optimizer": meta.get("ss_optimizer"),
        "resolution": meta.get("modelspec.resolution") or meta.get("ss_resolution"), "tags": _common_tags(tags),
    }  # fmt: skip


def _common_tags(frequency: object) -> list[str]:
    """The ten most frequent tags of all folders."""
    counts: dict[str, int] = {}
    for folder in frequency.values() if isinstance(frequency, dict) else ():
        for tag, times in folder.items() if isinstance(folder, dict) else ():
            counts[str(tag)] = counts.get(str(tag), 0) + (times if isinstance(times, int) else 0)
    return sorted(counts, key=lambda tag: (-counts[tag], tag))[:10]


def _convert(options: argparse.Namespace) -> int:
    from gpurent_engine import dialects

    found = _read(options.file, options)
    dtype = _dtype(options, found.file.dtype)
    if options.to == "diffusers":
        tensors, header = dialects.to_diffusers(found.file, found.family, dtype)
        return _write(options, tensors, header)
    return _write(options, found.file.tensors(dtype), _header(found, options))


def _merge(options: argparse.Namespace) -> int:
    from gpurent_engine import bake, surgery

    pairs = [_with_strength(text) for text in options.files]
    if options.base:
        counts = bake.write(Path(options.base), pairs, options.out, options.family)
        changed = ", ".join(f"{count} layers of {part}" for part, count in counts.items())
        _say(options, {"out": str(options.out), "layers": counts}, f"{options.out}: changed {changed}")
        return 0
    read = [(_read(path, options), strength) for path, strength in pairs]
    families = {found.family.name for found, _ in read}
    if len(families) > 1:
        raise Refused(f"the files belong to different model families: {', '.join(sorted(families))}.")
    merged = surgery.merge([(found.file, strength) for found, strength in read])
    if options.rank:
        merged, _ = surgery.resize(merged, options.rank)
    said = ", ".join(f"{path.name} at {strength:g}" for path, strength in pairs)
    header = _kept(read[0][0]) | {"ss_output_name": options.out.stem, "modelspec.merged_from": said}
    return _write(options, merged.tensors(_dtype(options, read[0][0].file.dtype)), _with_network(header, merged))


def _with_strength(text: str) -> tuple[Path, float]:
    """``file.safetensors:0.7``; without a strength it is 1."""
    path, colon, strength = text.rpartition(":")
    if colon and path and not Path(text).exists():
        try:
            return Path(path), float(strength)
        except ValueError as error:
            raise Refused(f"{strength!r} in {text!r} is not a strength such as 0.7.") from error
    return Path(text), 1.0


def _resize(options: argparse.Namespace) -> int:
    from gpurent_engine import surgery

    if options.rank < 1 or not 0 < options.keep <= 1:
        raise Refused("--rank must be at least 1, and --keep a share above 0 and at most 1.")
    found = _read(options.file, options)
    smaller, cuts = surgery.resize(found.file, options.rank, options.keep)
    smaller.metadata = dict(found.file.metadata)
    worst = min(cuts, key=lambda cut: cut.kept)
    mean = sum(cut.kept for cut in cuts) / len(cuts)
    print(
        f"{len(cuts)} layers keep {mean:.2%} of their squared norm on average, {worst.kept:.2%} in {worst.key}.",
        file=sys.stderr,
    )
    return _write(options, smaller.tensors(_dtype(options, found.file.dtype)), _with_network(smaller.metadata, smaller))


def _extract(options: argparse.Namespace) -> int:
    from gpurent_engine import surgery
    from gpurent_engine.families import loading

    base, tuned = loading.load(options.base), loading.load(options.file)
    spoken = [0.0]

    def tell(key: str) -> None:
        if time.monotonic() - spoken[0] > 1:
            spoken[0] = time.monotonic()
            print(f"… {key}", file=sys.stderr, flush=True)

    found, cuts = surgery.extract(tuned, base, rank=options.rank, conv_rank=options.conv_rank, on_layer=tell)
    mean = sum(cut.kept for cut in cuts) / len(cuts)
    print(f"{len(cuts)} layers hold {mean:.1%} of what changed, on average.", file=sys.stderr)
    family = base.family
    found.metadata = _family_keys(family) | {"ss_sd_model_name": Path(options.base).name}
    return _write(options, found.tensors(_dtype(options)), _with_network(found.metadata, found))


def _family_keys(family: Family) -> dict[str, str]:
    """What readers need to tell the family."""
    return {
        "ss_base_model_version": family.base_model_version, "ss_v2": str(family.name == "sd2"),
        "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": f"{family.architecture}/lora",
        "modelspec.implementation": family.implementation,
    }  # fmt: skip


def _kept(found: Spelled) -> dict[str, str]:
    """Of the first file: what tells the family, or what the family's record says."""
    return _family_keys(found.family) | {
        key: value
        for key, value in found.file.metadata.items()
        if key in ("ss_base_model_version", "ss_v2", "ss_sd_model_name", "modelspec.prediction_type")
    }


def _header(found: Spelled, options: argparse.Namespace) -> dict[str, str]:
    own = {key: value for key, value in found.file.metadata.items() if key != "lora_adapter_metadata"}
    return _with_network(_kept(found) | own | {"ss_output_name": options.out.stem}, found.file)


def _with_network(metadata: Mapping[str, str], file: Any) -> dict[str, str]:
    """Ranks and alphas as they are now; hashes of other bytes go."""
    from gpurent_engine import lorafile

    ranks, alphas = lorafile.network_settings(file)
    kept = {key: value for key, value in metadata.items() if not key.startswith("sshs_") and "hash_sha256" not in key}
    return kept | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks[0]) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(alphas[0]) if len(alphas) == 1 else "Dynamic",
    }  # fmt: skip


def _write(options: argparse.Namespace, tensors: Mapping[str, Any], header: Mapping[str, str]) -> int:
    from gpurent_engine import checkpoint, export

    bad = [name for name, one in tensors.items() if not bool(one.isfinite().all())]
    if bad:
        raise Refused(f"{bad[0]} is not finite in {options.precision or 'this precision'}; choose another --precision.")
    plain = b"".join(checkpoint.safetensors(tensors, header))
    full = dict(header) | (export.hashes(plain) if "ss_network_module" in header else {})
    written = checkpoint.write(options.out.parent, options.out.name, checkpoint.safetensors(tensors, full))
    facts = {"out": str(options.out), "bytes": written.size, "sha256": written.sha256, "tensors": len(tensors)}
    _say(options, facts, f"{options.out}: {len(tensors)} tensors, {written.size / 1e6:.1f} MB")
    return 0


def _say(options: argparse.Namespace, facts: Mapping[str, Any], text: str) -> None:
    print(json.dumps(facts) if options.json else text)


def _dtype(options: argparse.Namespace, usual: torch.dtype | None = None) -> torch.dtype:
    import torch

    named = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return named[options.precision] if options.precision else usual or torch.float16
