"""Configurations in other people's shapes, turned into kohya's keys. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpurent_engine.formats import easy, gui
from gpurent_engine.spec import SpecError


def _ai_toolkit(document: Mapping[str, Any]) -> bool:
    return isinstance(document.get("config"), Mapping) and "process" in document["config"]


def _one_trainer(document: Mapping[str, Any]) -> bool:
    return "training_method" in document and "base_model_name" in document


def _diffusion_pipe(document: Mapping[str, Any]) -> bool:
    return isinstance(document.get("adapter"), Mapping) and isinstance(document.get("model"), Mapping)


DIALECT = easy.NOTE
FOREIGN = {"ai-toolkit": _ai_toolkit, "OneTrainer": _one_trainer, "diffusion-pipe": _diffusion_pipe}
"""Programs whose files are told by what stands in them."""


def foreign(document: Mapping[str, Any]) -> str:
    """The program that a configuration was written for, if it is not kohya's trainer or a GUI of it; else empty."""
    return next((name for name, tells in FOREIGN.items() if tells(document)), "")


def flatten(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """kohya's keys in one table, from whichever dialect it is, and notes for the user.

    Raises:
        SpecError: it was written for another trainer, or is a dataset configuration.
    """
    other = foreign(document)
    if other in ("ai-toolkit", "OneTrainer"):
        raise SpecError("config", f"this file is of {other}; `gpurent init --from FILE` turns it into one of ours.")
    if other:
        raise SpecError(
            "config", f"this file is of {other}, which cannot be converted; `gpurent init` writes a new one."
        )
    if isinstance(document.get("datasets"), list) and "pretrained_model_name_or_path" not in _merged(document):
        raise SpecError(
            "datasets", "this is a dataset configuration; name it in the training's file as dataset_config."
        )
    for tells, convert in ((easy.is_easy, easy.convert), (gui.is_gui, gui.convert)):
        if tells(document):
            try:
                return convert(document)
            except (TypeError, ValueError, AttributeError, OverflowError) as error:
                said = f"a value is of another kind than this program writes: {error}."
                raise SpecError("config", said) from error
    flat = _merged({key: value for key, value in document.items() if not _of_dataset(key, document)})
    if isinstance(document.get("datasets"), list):
        flat["general"] = document.get("general", {})
        return flat, [
            ("datasets", "the [[datasets]] in this file are used; kohya's trainer reads them from a file of their own.")
        ]
    return flat, []


def _of_dataset(key: str, document: Mapping[str, Any]) -> bool:
    """``[general]`` beside ``[[datasets]]`` belongs to them."""
    return key == "general" and isinstance(document.get("datasets"), list)


def _merged(document: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat.update(value)
        else:
            flat[key] = value
    return flat
