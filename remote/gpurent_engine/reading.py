"""Reading a training configuration: kohya's keys in TOML or JSON, and the dialects of its GUIs. Torch-free.

kohya-ss/sd-scripts (``train_network.py --config_file``) flattens the tables of its TOML, so section names carry no
meaning; so do we. Unlike kohya, an unknown key is an error where it is near a known one, or could change the result.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpurent_engine import encodings, formats, limits
from gpurent_engine.formats import datasets
from gpurent_engine.keys import (
    ALIASES,
    CHOICES,
    NO_EFFECT,
    OPTIMISER_MODULES,
    REFUSED,
    TORCH_CURVES,
    ZERO_IS_UNSET,
)  # fmt: skip
from gpurent_engine.spec import TYPES, SpecError, TrainSpec, problem, together

SUFFIX = ".safetensors"
BASE = "pretrained_model_name_or_path"
_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string"}


def load_spec(path: Path) -> TrainSpec:
    """Read a ``training_config.toml`` (or ``.json``).

    Raises:
        SpecError: a key is unknown, of the wrong type or refused; the file is not TOML.
        OSError: the file cannot be read.
    """
    return parse_spec(read_document(path))


def read_document(path: Path) -> dict[str, Any]:
    """The tables of a TOML or JSON file as they stand.

    Raises:
        SpecError: it is neither, or another encoding than UTF-8.
        OSError: the file cannot be read.
    """
    text = _text(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        raise SpecError(path.name, "is YAML, as ai-toolkit writes it; `gpurent init --from FILE` converts it.")
    if path.suffix.lower() != ".json":
        return read_toml(path.name, text)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(path.name, f"is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise SpecError(path.name, "must hold a JSON object.")
    return document


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return encodings.utf8(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        way = f"save it as UTF-8 in your editor, or run: iconv -f {error.reason} -t UTF-8 {path.name}"
        raise SpecError(path.name, f"is {error.reason} text from line {line} on, not UTF-8; {way}.") from error


def read_toml(name: str, text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        SpecError: it is none, or this Python (3.10) cannot read TOML.
    """
    try:
        tomllib = importlib.import_module("tomllib")
    except ImportError as error:
        raise SpecError(name, "reading TOML needs Python 3.11 or newer; pass it as .json.") from error
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        hint = ""
        if "escape" in str(error) or "hex" in str(error):
            hint = " Backslashes of a Windows path need 'single quotes', or / instead."
        raise SpecError(name, f"is not valid TOML: {error}.{hint}") from error
    return document


def parse_spec(document: Mapping[str, Any]) -> TrainSpec:
    """Check a configuration as read from TOML; tables are flattened one level, later tables win.

    Raises:
        SpecError: naming the key, what was expected and the nearest known spelling; ``others`` has the further errors.
    """
    spec, wrong = attempt(document)
    if wrong:
        raise together(wrong)
    return spec


def attempt(document: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> tuple[TrainSpec, list[SpecError]]:
    """What can be made of a configuration, with defaults in the place of what is wrong; and everything that is wrong.

    Args:
        document: the tables.
        changes: keys that win over all of them, however they are spelled there.

    Raises:
        SpecError: nothing can be made of it: it was written for another trainer, say.
    """
    flat, notes = formats.flatten(document)
    flat = _changed(flat, changes or {})
    tables = flat.pop("datasets", None)
    general = flat.pop("general", {}) if tables else {}
    values: dict[str, Any] = {}
    warnings: list[tuple[str, str]] = [*notes]
    wrong: list[SpecError] = []
    for given, value in flat.items():
        error = problem(lambda: _take(given, value, values, warnings))  # noqa: B023 - called at once
        wrong += [error] if error else []
    _epochs_of_gui(flat, values, warnings)
    if not values.get(BASE):
        dialect = "".join(f" This file was {text}" for key, text in notes if key == formats.DIALECT)
        missing = SpecError(BASE, f"is missing: a diffusers folder, a .safetensors file or a hub id.{dialect}")
        wrong = [missing, *(one for one in wrong if one.key != BASE)]
    spec = TrainSpec(**{BASE: "?", **values})
    if spec.network_alpha == 0:
        spec = replace(spec, network_alpha=float(spec.network_dim))  # as kohya's network reads 0
    spec = _cached(flat, spec, wrong, warnings)
    seen = {one.key for one in wrong}
    wrong += [one for one in limits.errors(spec) if ALIASES.get(one.key, one.key) not in seen]
    if tables:
        try:
            spec = datasets.apply(spec, {"general": general, "datasets": tables})
        except SpecError as error:
            wrong += [error, *error.others]
    return replace(spec, warnings=(*warnings, *limits.doubts(spec))), wrong


CACHED = ("cache_latents", "cache_latents_to_disk")


def _cached(
    flat: Mapping[str, Any], spec: TrainSpec, wrong: list[SpecError], warnings: list[tuple[str, str]]
) -> TrainSpec:
    """Where latents are cached, kohya's trainer refuses what changes pictures each time, and ignores faces."""
    if not any(flat.get(key) for key in CACHED):
        return spec
    wrong += [
        SpecError(key, f"cannot be used together with {CACHED[0]}, as in kohya's trainer; set one of them to false.")
        for key in ("color_aug", "random_crop")
        if getattr(spec, key)
    ]
    if spec.face_crop_aug_range:
        said = f"face_crop_aug_range has no effect here: with {CACHED[0]}, pictures are cut in the middle, as in kohya."
        warnings.append(("face_crop_aug_range", said))
    return replace(spec, face_crop_aug_range=())


LENGTHS = frozenset({"max_train_steps", "max_train_epochs", "epoch"})
"""Keys that say how long a training is; epochs win where there are several."""


def _changed(flat: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``flat`` with other values; changing the length of a training does not mean that the old one wins."""
    gone = {ALIASES.get(key, key) for key in changes}
    if gone & LENGTHS:
        gone |= LENGTHS
    return {key: value for key, value in flat.items() if ALIASES.get(key, key) not in gone} | dict(changes)


def _take(given: str, value: Any, values: dict[str, Any], warnings: list[tuple[str, str]]) -> None:
    key = ALIASES.get(given, given)
    unset = value in (None, "", False, 0) or value == []
    if key in NO_EFFECT:
        if not unset:
            warnings.append((given, f"{given} has no effect here: {NO_EFFECT[key]}."))
    elif key in REFUSED:
        if not unset:
            raise SpecError(given, f"is not supported: {REFUSED[key]}.")
    elif key in TYPES:
        if not (value in (None, "") or (key in ZERO_IS_UNSET and value == 0)):
            values[key] = typed(given, key, value)
        if key == "output_name" and str(value).lower().endswith(SUFFIX):
            values[key] = values[key][: -len(SUFFIX)]
            warnings.append((key, f"output_name: {SUFFIX} is added by itself, so the file is called {value}."))
    elif key in ("use_8bit_adam", "use_lion_optimizer"):
        if value:
            values.setdefault("optimizer_type", "AdamW8bit" if key == "use_8bit_adam" else "Lion")
    elif key != "epoch":
        _unknown(given, value, warnings)


def _unknown(given: str, value: Any, warnings: list[tuple[str, str]]) -> None:
    """A key that nobody knows: an error when it is near a known one or could change the result, else a warning."""
    near = nearest(given)
    if near:
        raise SpecError(given, "is not a known key.", near)
    if value in (None, "", False) or value == []:
        warnings.append((given, f"{given} is not a known key; it is off, so nothing depends on it."))
        return
    raise SpecError(given, "is not a key of kohya's trainer or its GUI; remove it if nothing depends on it.")


def nearest(key: str) -> str:
    """The known key that ``key`` is most likely meant to be; empty where none is near."""
    known = [*TYPES, *ALIASES, *NO_EFFECT, *REFUSED]
    return next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.75)), "")


def _epochs_of_gui(flat: Mapping[str, Any], values: dict[str, Any], warnings: list[tuple[str, str]]) -> None:
    """``epoch`` is what kohya's GUI calls its epochs; its trainer reads max_train_epochs and max_train_steps only."""
    epochs = flat.get("epoch")
    if not epochs or "max_train_epochs" in values:
        return
    if "max_train_steps" in values:
        warnings.append(("epoch", "epoch has no effect here: max_train_steps says how long the run is, as in kohya."))
    elif isinstance(epochs, int | float) and epochs == int(epochs):
        values["max_train_epochs"] = int(epochs)
        warnings.append(("epoch", "epoch is a key of kohya's GUI; it is taken for max_train_epochs."))


def typed(given: str, key: str, value: Any) -> Any:
    """A value as the field has it.

    Raises:
        SpecError: it is of another type, or none of the choices.
    """
    special = {
        "resolution": _resolution, "text_encoder_lr": _rates, "base_weights_multiplier": _rates,
        "face_crop_aug_range": _pair,
    }  # fmt: skip
    if key in special:
        return special[key](given, value)
    if TYPES[key].startswith("tuple[str"):
        return _texts(given, value)
    if key == "optimizer_type":
        return _optimiser(given, value)
    if key == "lr_scheduler_type":
        return _torch_curve(given, value)
    if key in CHOICES:
        return _choice(given, key, value)
    return _plain(given, key, value)


def _plain(given: str, key: str, value: Any) -> Any:
    kinds = TYPES[key].replace(" | None", "").split(" | ")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kinds == ["int", "float"] and number:
        return value
    wanted = "float" if "float" in kinds else kinds[0]
    if wanted == "float" and number:
        return float(value)
    if wanted == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value).__name__ != wanted:
        raise SpecError(given, f"must be {_NAMES[wanted]}, not {value!r}.")
    return value


def _choice(given: str, key: str, value: Any) -> str:
    allowed = CHOICES[key]
    if not isinstance(value, str):
        raise SpecError(given, f"must be one of {', '.join(allowed)}, not {value!r}.")
    name, colon, rest = value.partition(":")
    if key == "lr_scheduler" and name.lower() == "adafactor" and colon:
        try:
            return f"adafactor:{float(rest)}"
        except ValueError:
            raise SpecError(given, f"adafactor: is followed by a rate such as 1e-4, not {rest!r}.") from None
    for one in allowed:
        if one.lower() == value.lower():
            return one
    close = difflib.get_close_matches(value, allowed, n=1)
    raise SpecError(given, f"must be one of {', '.join(allowed)}, not {value!r}.", close[0] if close else "")


def _optimiser(given: str, value: Any) -> str:
    if not isinstance(value, str) or "." not in value:
        return _choice(given, "optimizer_type", value)
    module, _, name = value.rpartition(".")
    if module not in OPTIMISER_MODULES or not name.isidentifier():
        raise SpecError(given, f"{value} comes from {module or 'nowhere'}; hosts have {', '.join(OPTIMISER_MODULES)}.")
    return value


def _torch_curve(given: str, value: Any) -> str:
    name = str(value).removeprefix("torch.optim.lr_scheduler.")
    if name not in TORCH_CURVES:
        close = difflib.get_close_matches(name, TORCH_CURVES, n=1)
        raise SpecError(
            given, f"must be a class of torch.optim.lr_scheduler: {', '.join(TORCH_CURVES)}; not {value!r}.",
            close[0] if close else "",
        )  # fmt: skip
    return name


def _resolution(given: str, value: Any) -> tuple[int, int]:
    parts = (
        value.replace("x", ",").split(",")
        if isinstance(value, str)
        else value
        if isinstance(value, list | tuple)
        else [value]
    )
    try:
        numbers = [int(str(part)) for part in parts]
    except ValueError:
        numbers = []
    if (
        len(numbers) not in (1, 2)
        or any(isinstance(part, bool) for part in parts)
        or not 16 <= min(numbers) <= max(numbers) <= 16384
    ):
        raise SpecError(given, f'must be a size such as 512 or "512,768", not {value!r}.')
    return numbers[0], numbers[-1]


def _rates(given: str, value: Any) -> tuple[float, ...] | None:
    """kohya's key takes a number, or a list with one for each text encoder."""
    found = value if isinstance(value, list | tuple) else [value]
    limit = 2 if given == "text_encoder_lr" else 64
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in found) or len(found) > limit:
        raise SpecError(given, f"must be a number, or a list of up to {limit}, not {value!r}.")
    return tuple(float(one) for one in found) or (None if given == "text_encoder_lr" else ())


def _pair(given: str, value: Any) -> tuple[float, ...]:
    """Two numbers: a list, or text with a comma as on kohya's command line."""
    try:
        found = [float(one) for one in (value.split(",") if isinstance(value, str) else value)]
    except (TypeError, ValueError):
        found = []
    if len(found) != 2:
        raise SpecError(given, f'must be two numbers such as "1.0,3.0", not {value!r}.')
    return found[0], found[1]


def _texts(given: str, value: Any) -> tuple[str, ...]:
    found = value if isinstance(value, list | tuple) else value.split() if isinstance(value, str) else [value]
    if any(not isinstance(one, str) for one in found):
        raise SpecError(given, f'must be a list such as ["name=value"], not {value!r}.')
    return tuple(one for one in found if one)
