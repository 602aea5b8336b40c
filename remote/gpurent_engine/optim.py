"""The optimiser and its name in the metadata. Choices and quirks as in kohya-ss/sd-scripts ``get_optimizer``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from gpurent_engine import limits
from gpurent_engine.spec import SpecError, TrainSpec

KINDS: dict[str, str] = {
    "AdamW": "torch.optim.AdamW", "Lion": "lion_pytorch.Lion", "SGDNesterov": "torch.optim.SGD",
    "DAdaptation": "dadaptation.DAdaptAdam", "DAdaptAdamPreprint": "dadaptation.DAdaptAdam",
    "DAdaptAdam": "dadaptation.DAdaptAdam", "DAdaptAdaGrad": "dadaptation.DAdaptAdaGrad",
    "DAdaptAdan": "dadaptation.DAdaptAdan", "DAdaptSGD": "dadaptation.DAdaptSGD", "Prodigy": "prodigyopt.Prodigy",
    "Adafactor": "transformers.optimization.Adafactor", "AdamWScheduleFree": "schedulefree.AdamWScheduleFree",
    "RAdamScheduleFree": "schedulefree.RAdamScheduleFree", "SGDScheduleFree": "schedulefree.SGDScheduleFree",
}  # fmt: skip
"""Class of each name."""
SMALL: dict[str, tuple[str, str]] = {
    "AdamW8bit": ("bitsandbytes.optim.AdamW8bit", "AdamW"), "PagedAdamW": ("bitsandbytes.optim.PagedAdamW", "AdamW"),
    "PagedAdamW8bit": ("bitsandbytes.optim.PagedAdamW8bit", "AdamW"),
    "PagedAdamW32bit": ("bitsandbytes.optim.PagedAdamW32bit", "AdamW"),
    "Lion8bit": ("bitsandbytes.optim.Lion8bit", "Lion"), "PagedLion8bit": ("bitsandbytes.optim.PagedLion8bit", "Lion"),
    "SGDNesterov8bit": ("bitsandbytes.optim.SGD8bit", "SGDNesterov"),
}  # fmt: skip
"""Kinds that save memory, and those that compute the same in float32. A LoRA's optimiser is small either way."""
WITH_DECAY = frozenset(("AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit"))
"""Kinds that our key ``weight_decay`` reaches; others take it from ``optimizer_args``, as in kohya's trainer."""

Groups = list[tuple[list[torch.nn.Parameter], float]]


class UnknownOptimizer(ValueError):
    """No optimiser bears that name; training with another would not be what was asked for."""


def make(spec: TrainSpec, groups: Groups, device: torch.device) -> tuple[Any, str]:
    """Build the optimiser over ``(parameters, learning rate)`` groups.

    Returns:
        The optimiser, and a note for the user when it is not the one that was asked for, else "".

    Raises:
        UnknownOptimizer: ``optimizer_type`` is not one that this engine knows.
        SpecError: it does not take ``optimizer_args``.
    """
    kind, path, note = _chosen(spec.optimizer_type, device)
    arguments = _arguments(spec, kind)
    settings: list[dict[str, Any]] = [{"params": parameters, "lr": rate} for parameters, rate in groups]
    notes = [note] if note else []
    if kind.startswith(("DAdapt", "Prodigy")) or path.startswith(("dadaptation.", "prodigyopt.")):
        notes += _one_rate(settings)
    elif kind == "Adafactor" and arguments["relative_step"]:
        for group in settings:  # it finds the rate by itself, and refuses one from outside
            group["lr"] = None
        notes.append(
            "Adafactor with relative_step finds the learning rate by itself; unet_lr and text_encoder_lr do not count."
        )
    kind_of = _class(path)
    try:
        made = kind_of(settings, **arguments)
    except (TypeError, ValueError) as error:
        raise SpecError("optimizer_args", f"{spec.optimizer_type} refuses them: {error}.") from error
    if hasattr(made, "train"):
        made.train()
    return made, " ".join(notes)


def _chosen(name: str, device: torch.device) -> tuple[str, str, str]:
    """Kind, path of the class, and a note where it stands in for another."""
    if name in SMALL:
        path, same = SMALL[name]
        missing = (
            "a CUDA GPU" if device.type != "cuda" else "" if _installed("bitsandbytes") else "bitsandbytes on this host"
        )
        if not missing:
            return name, path, ""
        return same, KINDS[same], f"{name} needs {missing}; {same} in float32 is used instead."
    if name in KINDS:
        return name, KINDS[name], ""
    if "." in name:
        return name, name, ""
    raise UnknownOptimizer(f"no optimizer is called {name!r}")


def _installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UnknownOptimizer(f"there is no {path} on this host: {error}") from error


def _arguments(spec: TrainSpec, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = limits.literals("optimizer_args", spec.optimizer_args)
    if kind in WITH_DECAY:
        found.setdefault("weight_decay", spec.weight_decay)
    if kind.startswith("SGDNesterov"):
        found.setdefault("momentum", 0.9)
        found["nesterov"] = True
    if kind == "Adafactor":
        found.setdefault("relative_step", True)
        if found.get("warmup_init"):
            found["relative_step"] = True
        found.setdefault("scale_parameter", True)
    # lists are what TOML writers make of tuples
    return {name: tuple(one) if isinstance(one, list) else one for name, one in found.items()}


def _one_rate(settings: list[dict[str, Any]]) -> list[str]:
    """One distance is found for all groups together, so the first group's rate counts for all."""
    rates = {group["lr"] for group in settings}
    for group in settings:
        group["lr"] = settings[0]["lr"]
    return (
        [f"This optimizer takes one learning rate: {settings[0]['lr']:g} counts for every part."]
        if len(rates) > 1
        else []
    )


def one_rate(spec: TrainSpec) -> bool:
    """Whether every group goes by the rate of the first."""
    name = spec.optimizer_type
    return name.startswith(("DAdapt", "Prodigy", "dadaptation.", "prodigyopt."))


def described(optimizer: Any, spec: TrainSpec) -> str:
    """``module.Class(arguments)``, as kohya's metadata has it."""
    kind = type(optimizer)
    given: Mapping[str, object] = limits.literals("optimizer_args", spec.optimizer_args)
    if not given and spec.optimizer_type in WITH_DECAY:
        given = {"weight_decay": spec.weight_decay}
    return f"{kind.__module__}.{kind.__qualname__}({','.join(f'{name}={value}' for name, value in given.items())})"
