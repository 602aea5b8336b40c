"""The TOML of LoRA_Easy_Training_Scripts (derrian-distro): a table ``args`` with arguments by topic below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTE = "args"
"""Key of the note that says whose file it was."""
_ARGUMENTS = ("args", "dataset")
_LISTS = ("network_args", "optimizer_args", "lr_scheduler_args")
_IDLE = frozenset((
    "save_toml", "save_toml_location", "tag_occurrence", "tag_file_location", "save_only_last", "fa", "tag_file_name",
))  # fmt: skip
"""What only that program itself heeds."""


def is_easy(document: Mapping[str, Any]) -> bool:
    """Whether the tables of a file are nested as that program nests them."""
    for name in _ARGUMENTS:
        table = document.get(name)
        if isinstance(table, Mapping) and any(isinstance(one, Mapping) for one in table.values()):
            return True
    return isinstance(document.get("general_args"), Mapping) and "args" in document["general_args"]


def convert(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """kohya's keys, and notes for the user. Both of the program's layouts are read: by topic, and by table."""
    flat: dict[str, Any] = {}
    subsets: list[Mapping[str, Any]] = []
    for name, table in document.items():
        if name == "subsets" and isinstance(table, list):
            subsets += table
        elif isinstance(table, Mapping):
            _gather(table, flat, subsets)
    for key in _LISTS:
        if isinstance(flat.get(key), Mapping):
            flat[key] = [f"{name}={value}" for name, value in flat[key].items() if value not in (None, "")]
    if isinstance(flat.get("resolution"), list):
        flat["resolution"] = ",".join(str(one) for one in flat["resolution"])
    notes = [(NOTE, "read as a file of LoRA_Easy_Training_Scripts.")]
    for key in _IDLE & set(flat):
        del flat[key]
    if "warmup_ratio" in flat:
        flat["lr_warmup_steps"] = float(flat.pop("warmup_ratio"))
    for key in ("algo", "preset"):  # its window for LyCORIS has them beside network_args
        if key in flat:
            flat["network_args"] = [*flat.get("network_args", ()), f"{key}={flat.pop(key)}"]
    if subsets:
        flat["datasets"] = [{"subsets": [{k: v for k, v in one.items() if k != "name"} for one in subsets]}]
    return flat, notes


def _gather(table: Mapping[str, Any], flat: dict[str, Any], subsets: list[Mapping[str, Any]]) -> None:
    for key, value in table.items():
        if key == "subsets" and isinstance(value, list):
            subsets += value
        elif isinstance(value, Mapping) and key not in _LISTS:
            _gather(value, flat, subsets)
        else:
            flat[key] = value
