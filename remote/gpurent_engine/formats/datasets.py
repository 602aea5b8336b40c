"""kohya's dataset configuration: ``[general]``, ``[[datasets]]``, ``[[datasets.subsets]]``. Torch-free.

A value is looked for in the subset, its dataset, ``[general]`` and then in the training's own configuration. The schema
is strict, as kohya's is (kohya-ss/sd-scripts ``library/config_util.py``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpurent_engine.keys import REFUSED
from gpurent_engine.spec import SpecError, Subset, TrainSpec, problem, together

PER_DATASET = frozenset((
    "batch_size", "resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps",
    "bucket_no_upscale", "network_multiplier", "validation_split", "validation_seed",
))  # fmt: skip
PER_SUBSET = frozenset((
    "num_repeats", "class_tokens", "caption_extension", "cache_info", "shuffle_caption", "keep_tokens",
    "keep_tokens_separator", "secondary_separator", "caption_separator", "enable_wildcard", "caption_prefix",
    "caption_suffix", "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate",
    "token_warmup_min", "token_warmup_step", "flip_aug", "color_aug", "face_crop_aug_range", "random_crop",
    "custom_attributes", "resize_interpolation",
))  # fmt: skip
OF_ONE = frozenset(("image_dir", "is_reg", "alpha_mask", "conditioning_data_dir", "metadata_file"))
"""What only a subset itself can say."""
_FIELDS = frozenset((
    "train_batch_size", "resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps",
    "bucket_no_upscale", "caption_extension", "shuffle_caption", "keep_tokens", "keep_tokens_separator",
    "secondary_separator", "caption_separator", "enable_wildcard", "caption_prefix", "caption_suffix",
    "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "token_warmup_min",
    "token_warmup_step", "flip_aug", "resize_interpolation", "alpha_mask",
    "validation_split", "validation_seed", "color_aug", "random_crop", "face_crop_aug_range",
))  # fmt: skip
"""Fields of TrainSpec that may differ between subsets."""
_OFF = ("custom_attributes",)
"""Refused while they are set."""
FOLDER = re.compile(r"(\d+)_(.*)")


def resolve(spec: TrainSpec, here: Path) -> TrainSpec:
    """The training with its folders named one by one, where a dataset configuration or regularisation asks for it.

    Args:
        spec: as read.
        here: where relative paths start: the folder of the training's configuration.

    Raises:
        SpecError: the dataset configuration cannot be read, or a key of it is wrong.
    """
    if spec.dataset_config:
        from gpurent_engine.reading import read_document

        path = here / Path(spec.dataset_config).expanduser()
        try:
            document = read_document(path)
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError("dataset_config", f"{path} cannot be read: {error}.") from error
        except SpecError as error:
            raise SpecError("dataset_config", f"{path} {error.message}") from error
        return apply(spec, document, path.parent)
    if spec.in_json and not spec.subsets:
        folder, captions = (str(here / Path(one).expanduser()) for one in (spec.train_data_dir, spec.in_json))
        name = Path(folder).name
        return replace(spec, subsets=(Subset(folder, name, spec.dataset_repeats, metadata_file=captions),))
    if spec.reg_data_dir and not spec.subsets:
        found = [*_by_names(spec.train_data_dir, here, "train_data_dir", regular=False)]
        return replace(spec, subsets=(*found, *_by_names(spec.reg_data_dir, here, "reg_data_dir", regular=True)))
    if spec.conditioning_data_dir and not spec.subsets:
        masks = str(here / Path(spec.conditioning_data_dir).expanduser())
        found = [*_by_names(spec.train_data_dir, here, "train_data_dir", regular=False)]
        return replace(spec, subsets=tuple(replace(one, mask_folder=_mask_folder(masks, one.name)) for one in found))
    return spec


def _mask_folder(masks: str, name: str) -> str:
    """Masks lie in folders of the same names, or all in one."""
    inner = Path(masks) / name
    return str(inner) if inner.is_dir() else masks


def _by_names(folder: str, here: Path, key: str, *, regular: bool) -> Iterator[Subset]:
    root = here / Path(folder).expanduser()
    if not root.is_dir():
        raise SpecError(key, f"{root} is not a folder.")
    for path in sorted(root.iterdir()):
        match = FOLDER.fullmatch(path.name)
        if path.is_dir() and match and int(match[1]) > 0:
            yield Subset(str(path), path.name, int(match[1]), match[2], regular)


def apply(spec: TrainSpec, document: Mapping[str, Any], here: Path | None = None) -> TrainSpec:
    """The training with the folders of a dataset configuration.

    Raises:
        SpecError: a key is unknown, of the wrong type, or asks for what is not done; ``others`` has the further errors.
    """
    wrong: list[SpecError] = []
    _check(document, frozenset(("general", "datasets")), "the dataset configuration", wrong)
    general = document.get("general", {})
    datasets = document.get("datasets")
    if not isinstance(general, Mapping) or not isinstance(datasets, list) or not datasets:
        raise SpecError(
            "datasets", "the dataset configuration needs at least one [[datasets]] with [[datasets.subsets]]."
        )
    _check(general, PER_DATASET | PER_SUBSET, "[general]", wrong)
    subsets: list[Subset] = []
    for number, dataset in enumerate(datasets, start=1):
        where = f"[[datasets]] {number}"
        if not isinstance(dataset, Mapping) or not isinstance(dataset.get("subsets"), list) or not dataset["subsets"]:
            wrong.append(SpecError("datasets", f"{where} has no [[datasets.subsets]]."))
            continue
        _check({k: v for k, v in dataset.items() if k != "subsets"}, PER_DATASET | PER_SUBSET, where, wrong)
        for at, subset in enumerate(dataset["subsets"], start=1):
            levels, place = (general, dataset, subset), f"{where}, subset {at}"
            found = problem(lambda: subsets.append(_subset(spec, levels, number - 1, place, here=here)))  # noqa: B023
            wrong += [found] if found else []
    if not wrong and all(one.regular for one in subsets):
        wrong.append(SpecError("is_reg", "every subset holds regularisation images; there is nothing to learn."))
    if wrong:
        raise together(wrong)
    masked = any(one.mask_folder for one in subsets)
    return replace(spec, subsets=tuple(subsets), masked_loss=spec.masked_loss or masked)


def _check(table: Mapping[str, Any], known: frozenset[str], where: str, wrong: list[SpecError]) -> None:
    wrong += [_unknown(key, known, where) for key in sorted(set(table) - known)]


def _unknown(key: str, known: frozenset[str], where: str) -> SpecError:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return SpecError(key, f"is not a known key of {where}.", close[0] if close else "")


def _subset(
    spec: TrainSpec, levels: tuple[Mapping[str, Any], ...], group: int, where: str, *, here: Path | None
) -> Subset:  # fmt: skip
    from gpurent_engine.reading import typed

    own = levels[-1]
    if not isinstance(own, Mapping):
        raise SpecError("subsets", f"{where} must be a table.")
    for key in sorted(set(own) - PER_SUBSET - OF_ONE):
        raise _unknown(key, PER_SUBSET | OF_ONE, where)
    for key in _OFF:
        for level in levels:
            if level.get(key):
                raise SpecError(key, f"in {where} is not supported: {REFUSED[key]}.")
    folder = own.get("image_dir")
    if not isinstance(folder, str) or not folder:
        raise SpecError("image_dir", f"is missing in {where}.")
    merged = {key: value for level in levels for key, value in level.items() if key != "subsets"}
    settings: dict[str, Any] = {}
    for key, value in merged.items():
        name = "train_batch_size" if key == "batch_size" else key
        if name in _FIELDS:
            fresh = typed(key, name, value)
            if fresh != getattr(spec, name):
                settings[name] = fresh
    _sane(spec, settings, where)
    _cached(spec, settings, where)
    base = here or Path()
    masks, captions = (_typed(own, key, str, "", where=where) for key in ("conditioning_data_dir", "metadata_file"))
    repeats = _typed(merged, "num_repeats", int, 1, where=where)
    if repeats < 1:
        raise SpecError("num_repeats", f"in {where} must be at least 1.")
    return Subset(
        folder=str(base / Path(folder).expanduser()),
        name=Path(folder.replace("\\", "/")).name or folder,
        repeats=repeats,
        concept=_typed(merged, "class_tokens", str, "", where=where),
        regular=_typed(merged, "is_reg", bool, False, where=where),
        group=group,
        mask_folder=str(base / Path(masks).expanduser()) if masks else "",
        metadata_file=str(base / Path(captions).expanduser()) if captions else "",
        settings=tuple(sorted(settings.items())),
    )


def _cached(spec: TrainSpec, settings: Mapping[str, Any], where: str) -> None:
    from gpurent_engine.reading import CACHED

    if not any(key in CACHED for key, _ in spec.warnings):
        return
    for key in ("color_aug", "random_crop"):
        if settings.get(key):
            raise SpecError(key, f"in {where} cannot be used together with {CACHED[0]}, as in kohya's trainer.")


def _sane(spec: TrainSpec, settings: Mapping[str, Any], where: str) -> None:
    from gpurent_engine import limits

    changed = replace(spec, **dict(settings))
    for error in limits.errors(changed):
        if error.key in settings:
            raise SpecError(error.key, f"in {where} {error.message}", error.suggestion)


def _typed(table: Mapping[str, Any], key: str, kind: type, default: Any, *, where: str) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {int: "a whole number", str: "a string", bool: "true or false"}
        raise SpecError(key, f"in {where} must be {names[kind]}, not {value!r}.")
    return value
