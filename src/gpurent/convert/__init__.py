"""Configurations of other trainers, turned into kohya's keys: what ``gpurent init --from FILE`` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gpurent.errors import ConfigError
from gpurent.localfiles import read_text
from gpurent_engine import formats
from gpurent_engine.reading import parse_spec, read_toml
from gpurent_engine.spec import SpecError

MOST = 1024 * 1024


@dataclass
class Converted:
    """kohya's keys, the dataset's tables, and what has no counterpart."""

    program: str
    keys: dict[str, Any] = field(default_factory=dict)
    subsets: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Sentences, each naming a setting that is not carried over."""


def convert(path: Path) -> Converted:
    """Read a configuration of ai-toolkit, OneTrainer, kohya's trainer or a GUI of it.

    Raises:
        ConfigError: the file cannot be read, or is of none of these.
    """
    from gpurent.convert import aitoolkit, onetrainer

    document = read(path)
    program = formats.foreign(document)
    if program in ("ai-toolkit", "OneTrainer"):
        try:
            of_toolkit = program == "ai-toolkit"
            return aitoolkit.convert(document) if of_toolkit else onetrainer.convert(document, path.parent)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            said = f"{path}: a value is of another kind than {program} writes: {error}."
            raise ConfigError(said, hint=f"Save it again with {program}.") from error
    try:
        flat, notes = formats.flatten(document)
        tables = flat.pop("datasets", [])
        flat.pop("general", None)
        parse_spec(document)
    except SpecError as error:
        said = "; ".join(f"{one.key} {one.message}" for one in (error, *error.others))
        raise ConfigError(f"{path}: {said}", hint="Change it there, or start from `gpurent init`.") from error
    subsets = [dict(subset) for table in tables for subset in table.get("subsets", ())]
    return Converted("kohya's trainer", flat, subsets, [text for _, text in notes])


def read(path: Path) -> Mapping[str, Any]:
    """The document in a YAML, JSON or TOML file.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        text = read_text(path, MOST)
        if path.suffix in (".yaml", ".yml"):
            document = yaml.safe_load(text)
        elif path.suffix == ".json":
            document = json.loads(text)
        else:
            document = read_toml(path.name, text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError, SpecError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read: {said}", hint="YAML, JSON and TOML files are converted.") from error
    if not isinstance(document, Mapping):
        raise ConfigError(f"{path} holds no table of settings.", hint="Name a configuration of a trainer.")
    return document


def toml(converted: Converted, config: str) -> tuple[str, str]:
    """The training's file and, where there are subsets, the dataset's file, as text."""
    keys = dict(converted.keys)
    if converted.subsets:
        keys["dataset_config"] = config
    lines = [f"# Converted from a configuration of {converted.program} by `gpurent init --from`.", ""]
    lines += [f"{key} = {value(one)}" for key, one in keys.items() if one not in (None, "")]
    if converted.lost:
        lines += ["", "# Not carried over:", *(f"# - {' '.join(line.split())}" for line in converted.lost)]
    data = []
    if converted.subsets:
        data = ["[[datasets]]"]
        for subset in converted.subsets:
            data += ["", "  [[datasets.subsets]]", *(f"  {key} = {value(given)}" for key, given in subset.items())]
    return "\n".join(lines) + "\n", "\n".join(data) + "\n" if data else ""


def value(one: Any) -> str:
    """A value as TOML has it."""
    if isinstance(one, bool):
        return "true" if one else "false"
    if isinstance(one, int | float):
        return repr(one)
    if isinstance(one, list | tuple):
        return "[" + ", ".join(value(part) for part in one) + "]"
    return json.dumps(str(one), ensure_ascii=False).replace("\x7f", "\\u007f")
