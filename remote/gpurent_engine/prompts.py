"""Prompts of sample pictures, as kohya-ss/sd-scripts reads them (``train_util.py: line_to_prompt_dict``). Torch-free.

A line is a prompt followed by ``--n negative prompt``, ``--w width``, ``--h height``, ``--d seed``, ``--s steps``,
``--l guidance scale``, ``--ss sampler``. TOML and JSON prompt files are read as there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpurent_engine import encodings
from gpurent_engine.spec import Sample, SpecError, TrainSpec

KEY = "sample_prompts"
EVERY = ("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first")
SAMPLERS: dict[str, tuple[str, Mapping[str, object]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {}), "k_euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}), "k_euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}), "k_dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}), "k_dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmsolver": (
        "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ), "dpmsolver++": ("DPMSolverMultistepScheduler", {}),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {}),
}  # fmt: skip
"""kohya's names, and the schedulers of diffusers with arguments. ``lms`` needs SciPy, which hosts lack."""
MOST, MOST_PIXELS = 64, 4096 * 4096
"""Pictures at one time, and pixels of one: more are hardly meant, and are paid for."""
_FLAGS: dict[str, tuple[str, type]] = {
    "w": ("width", int), "h": ("height", int), "d": ("seed", int), "s": ("steps", int), "l": ("guidance", float),
    "n": ("negative", str), "ss": ("sampler", str),
}  # fmt: skip
_OTHERS = frozenset(("g", "ctr", "rcfg", "fs", "am"))
"""Flags of models that are trained by flow matching."""
_NAMES = {
    "prompt": "prompt", "negative_prompt": "negative", "width": "width", "height": "height", "seed": "seed",
    "sample_steps": "steps", "scale": "guidance", "sample_sampler": "sampler",
}  # fmt: skip


def wanted(spec: TrainSpec) -> bool:
    """Whether pictures are to be drawn on the way."""
    return any(getattr(spec, key) for key in EVERY)


def embed(spec: TrainSpec, here: Path) -> TrainSpec:
    """Put the prompts of ``sample_prompts`` into the training, so that the host needs no file.

    Args:
        spec: as read.
        here: where a relative path starts.

    Raises:
        SpecError: the file that is named is not there, or a prompt is wrong. One that is not named is a warning: GUIs
            write how often to draw in any case.
    """
    if not wanted(spec):
        return replace(spec, sample_prompts="", samples=())
    if spec.samples:
        return spec
    if not spec.sample_prompts:
        asked = next(key for key in EVERY if getattr(spec, key))
        missing = f"is missing, so no pictures are drawn: {asked} needs a file with a prompt in each line."
        return replace(
            spec, sample_every_n_epochs=None, sample_every_n_steps=None, sample_at_first=False,
            warnings=(*spec.warnings, (KEY, missing)),
        )  # fmt: skip
    text, suffix = _text(spec.sample_prompts, here)
    found = read(text, suffix, spec)
    if not found:
        raise SpecError(KEY, f"{spec.sample_prompts} holds no prompt.")
    if len(found) > MOST:
        raise SpecError(KEY, f"{spec.sample_prompts} has {len(found)} prompts; {MOST} are the most.")
    return replace(spec, sample_prompts=Path(spec.sample_prompts).name if suffix else "", samples=tuple(found))


def _text(given: str, here: Path) -> tuple[str, str]:
    """Content and suffix of the file; presets of kohya's GUI hold the prompts themselves."""
    if "\n" in given or " --" in given:
        return given, ""
    path = here / Path(given).expanduser()
    try:
        if not path.is_file():  # a pipe would be waited for
            raise SpecError(KEY, f"{path} is not a file; write a prompt in each line of it.")
        return encodings.utf8(path.read_bytes()), path.suffix.lower()
    except UnicodeDecodeError as error:
        raise SpecError(KEY, f"{path} is {error.reason} text, not UTF-8.") from error
    except OSError as error:
        raise SpecError(KEY, f"{path} cannot be read: {error.strerror or error}.") from error


def read(text: str, suffix: str, spec: TrainSpec) -> list[Sample]:
    """Prompts of a file. Sizes that it does not name are those of the training, seeds are the same each time.

    Raises:
        SpecError: it is not valid TOML or JSON, or a prompt is wrong.
    """
    if suffix == ".toml":
        from gpurent_engine.reading import read_toml

        table = read_toml(KEY, text).get("prompt", {})
        rows = [{**table, **one} for one in table.get("subset", [])] if isinstance(table, dict) else table
    elif suffix == ".json":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(KEY, f"is not valid JSON: {error}.") from error
    else:
        rows = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not isinstance(rows, list):
        raise SpecError(KEY, "must be a list of prompts.")
    return [_sample(one, number, spec) for number, one in enumerate(rows, start=1)]


def _sample(given: Any, number: int, spec: TrainSpec) -> Sample:
    if isinstance(given, str):
        values = _line(given, number)
    elif isinstance(given, Mapping):
        values = {_NAMES[key]: value for key, value in given.items() if key in _NAMES}
    else:
        raise SpecError(KEY, f"prompt {number} must be text or a table, not {given!r}.")
    defaults: dict[str, Any] = {
        "width": spec.resolution[0], "height": spec.resolution[1], "seed": spec.seed + number - 1,
        "sampler": spec.sample_sampler,
    }  # fmt: skip
    try:
        found = Sample(**{**defaults, **values})
    except TypeError as error:
        raise SpecError(KEY, f"prompt {number} has no text.") from error
    return _checked(found, number)


def _line(line: str, number: int) -> dict[str, Any]:
    prompt, *rest = line.split(" --")
    if prompt.startswith("--"):
        raise SpecError(KEY, f"prompt {number} has no text before its flags.")
    values: dict[str, Any] = {"prompt": prompt.strip()}
    for part in rest:
        flag, _, text = part.partition(" ")
        flag, text = flag.lower(), text.strip()
        if flag in _OTHERS:
            continue
        if flag not in _FLAGS:
            known = ", ".join(f"--{one}" for one in _FLAGS)
            raise SpecError(KEY, f"prompt {number}: --{flag} is not one of {known}.")
        name, kind = _FLAGS[flag]
        try:
            values[name] = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise SpecError(KEY, f"prompt {number}: --{flag} must be {what}, not {text!r}.") from None
    return values


def _checked(one: Sample, number: int) -> Sample:
    for name, kinds in (("width", int), ("height", int), ("seed", int), ("steps", int), ("guidance", (int, float))):
        value = getattr(one, name)
        if not isinstance(value, kinds) or isinstance(value, bool) or value < 0:
            raise SpecError(KEY, f"prompt {number}: {name} must be a number that is not negative, not {value!r}.")
    if not isinstance(one.prompt, str) or not isinstance(one.negative, str):
        raise SpecError(KEY, f"prompt {number} must be text.")
    if one.sampler not in SAMPLERS:
        raise SpecError(KEY, f"prompt {number}: the sampler must be one of {', '.join(SAMPLERS)}, not {one.sampler!r}.")
    # sides are cut to a multiple of 8 and at least 64, steps kept between 1 and 1000, as there
    sides = {name: max(64, getattr(one, name) // 8 * 8) for name in ("width", "height")}
    if sides["width"] * sides["height"] > MOST_PIXELS or one.seed >= 2**63:
        raise SpecError(KEY, f"prompt {number}: {one.width}×{one.height} with seed {one.seed} is too large.")
    return replace(one, **sides, steps=max(1, min(1000, one.steps)), guidance=float(one.guidance))


def due(spec: TrainSpec, step: int, epoch: int, *, ended: bool) -> bool:
    """Whether it is time to draw; with both keys, epochs count, as in kohya's trainer.

    Args:
        spec: of the training.
        step: optimiser steps taken, 0 before the first.
        epoch: the one under way or just ended, counted from 1.
        ended: whether it has just ended.
    """
    if not spec.samples:
        return False
    if step == 0:
        return spec.sample_at_first
    if spec.sample_every_n_epochs:
        return ended and epoch % spec.sample_every_n_epochs == 0
    return bool(spec.sample_every_n_steps) and step % (spec.sample_every_n_steps or 1) == 0


def times(spec: TrainSpec, steps: int, epochs: int) -> int:
    """How often pictures are drawn in a run."""
    if not spec.samples:
        return 0
    every = epochs // spec.sample_every_n_epochs if spec.sample_every_n_epochs else 0
    if not spec.sample_every_n_epochs and spec.sample_every_n_steps:
        every = steps // spec.sample_every_n_steps
    return every + spec.sample_at_first
