"""``gpurent lora``: work on LoRA files. The engine does it, in a process of its own: only it knows torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gpurent.errors import UsageError

app = typer.Typer(
    help="Show, convert, merge, resize or extract LoRA files.", no_args_is_help=True, rich_markup_mode=None
)


class Spelling(StrEnum):
    """Values of ``--to``."""

    KOHYA = "kohya"
    DIFFUSERS = "diffusers"


class Precision(StrEnum):
    """Values of ``--precision``."""

    FLOAT = "float"
    FP16 = "fp16"
    BF16 = "bf16"


File = Annotated[Path, typer.Argument(help="A LoRA in .safetensors.")]
Out = Annotated[Path, typer.Option(help="The .safetensors file to write.")]
Family = Annotated[str | None, typer.Option(help="sd15, sd2 or sdxl, if the file does not tell.")]
WithPrecision = Annotated[Precision | None, typer.Option(help="Of the new file; default: that of the input.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(file: File, family: Family = None, json: Json = False) -> int:
    """Say what a file holds: family, ranks, alphas, how much each part adds, how it was trained."""
    return _engine(["show", str(file), *_optional(family=family), *_flags(json=json)])


@app.command()
def convert(
    *,
    file: File,
    to: Annotated[Spelling, typer.Option(help="kohya: AUTOMATIC1111, ComfyUI, kohya's trainer; diffusers: peft.")],
    out: Out,
    precision: WithPrecision = None,
    family: Family = None,
    force: Force = False,
    json: Json = False,
) -> int:
    """Write a file in another program's spelling, or in another precision."""
    return _engine([
        "convert", str(file), "--to", to.value, "--out", str(out), *_optional(precision=precision, family=family),
        *_flags(force=force, json=json),
    ])  # fmt: skip


@app.command()
def merge(
    *,
    files: Annotated[list[str], typer.Argument(help="FILE or FILE:STRENGTH, e.g. style.safetensors:0.7.")],
    out: Out,
    base: Annotated[
        Path | None, typer.Option(help="Bake into this single-file base model, and write a model instead.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Lower the rank of the result.")] = None,
    precision: WithPrecision = None,
    family: Family = None,
    force: Force = False,
    json: Json = False,
) -> int:
    """Make one LoRA that does what several do together, or bake them into a base model."""
    return _engine([
        "merge", *files, "--out", str(out), *_optional(base=base, rank=rank, precision=precision, family=family),
        *_flags(force=force, json=json),
    ])  # fmt: skip


@app.command()
def resize(
    *,
    file: File,
    rank: Annotated[int, typer.Option(min=1, help="No layer keeps a higher one.")],
    out: Out,
    keep: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the squared norm that is enough, e.g. 0.98.")
    ] = 1.0,
    precision: WithPrecision = None,
    family: Family = None,
    force: Force = False,
    json: Json = False,
) -> int:
    """Lower the rank of a LoRA, losing as little as possible, and say how much."""
    return _engine([
        "resize", str(file), "--rank", str(rank), "--keep", str(keep), "--out", str(out),
        *_optional(precision=precision, family=family), *_flags(force=force, json=json),
    ])  # fmt: skip


@app.command()
def extract(
    *,
    model: Annotated[str, typer.Argument(help="A fine-tuned model: folder or .safetensors file.")],
    base: Annotated[str, typer.Option(help="The model that it was tuned from.")],
    out: Out,
    rank: Annotated[int, typer.Option(min=1)] = 32,
    conv_rank: Annotated[int, typer.Option(min=0, help="Of 3×3 convolutions; 0 leaves them out.")] = 0,
    precision: WithPrecision = None,
    force: Force = False,
    json: Json = False,
) -> int:
    """Find what a fine-tuned model added to its base, as a LoRA."""
    return _engine([
        "extract", model, "--base", base, "--rank", str(rank), "--conv-rank", str(conv_rank), "--out", str(out),
        *_optional(precision=precision), *_flags(force=force, json=json),
    ])  # fmt: skip


def _optional(**options: object) -> list[str]:
    """``--name value`` for each that is given."""
    found = []
    for name, value in options.items():
        if value is not None:
            found += [f"--{name}", str(value.value if isinstance(value, StrEnum) else value)]
    return found


def _flags(**options: bool) -> list[str]:
    return [f"--{name}" for name, value in options.items() if value]


def _engine(arguments: Sequence[str]) -> int:
    if importlib.util.find_spec("torch") is None:
        raise UsageError("working on LoRA files needs torch", hint="pip install 'gpurent[engine]'")
    command = [sys.executable, "-W", "ignore", "-m", "gpurent_engine", "lora", *arguments]
    return subprocess.run(command, check=False).returncode
