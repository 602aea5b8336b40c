"""``gpurent grid``: a LoRA drawn here at several strengths, its trigger at start, middle and end of a prompt."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gpurent.cli import output
from gpurent.dataset.grid import NEGATIVE, rows_of, written
from gpurent.errors import JobFailed, UsageError
from gpurent.tensorfile import tensor_names
from gpurent.untrusted.text import quoted

MOST_PICTURES = 400
DRAW_S = 3600.0
"""The longest that drawing may take, on a slow computer."""
HEADER = 8 * 1024 * 1024


@dataclass(frozen=True)
class GridOptions:
    """What ``grid`` was asked to draw."""

    file: Path
    base: str
    trigger: str = ""
    prompts: tuple[str, ...] = ()
    negative: str = NEGATIVE
    strengths: str = "0.5,0.7,0.8,1.0"
    seeds: str = "1,2"
    steps: int = 30
    out: Path | None = None
    as_json: bool = False


def run(options: GridOptions) -> int:
    """Check everything, then draw in a process of its own: only the engine knows torch."""
    _require_lora(options.file)
    base = _base(options.base)
    strengths = _numbers("--strengths", options.strengths)
    seeds = [_seed(one) for one in options.seeds.split(",")]
    if not 1 <= options.steps <= 1000:
        raise UsageError(f"--steps {options.steps} is not between 1 and 1000")
    rows = rows_of(options.trigger, options.prompts, seeds, options.negative)
    count = len(rows) * (len(strengths) + 1)
    if count > MOST_PICTURES:
        hint = "Give fewer seeds, prompts or strengths."
        raise UsageError(f"that makes {count} pictures, more than {MOST_PICTURES}", hint=hint)
    out = options.out or options.file.with_name(f"{options.file.stem}-grid.png")
    if not out.parent.is_dir():
        raise UsageError(f"the folder {out.parent} does not exist", hint="Name another file with --out.")
    if importlib.util.find_spec("torch") is None:
        raise UsageError("drawing needs torch", hint="pip install 'gpurent[engine]'")
    output.notes.print(f"Drawing {len(rows)} rows of {len(strengths) + 1} pictures …")
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.toml"
        prompts.write_text(written(rows, options.steps), encoding="utf-8")
        draw(base, options.file, prompts, ",".join(f"{one:g}" for one in strengths), picture=out)
    if options.as_json:
        output.print_json({"picture": str(out), "rows": len(rows), "strengths": strengths})
    else:
        output.console.print(str(out), soft_wrap=True, markup=False, highlight=False)
    return 0


def draw(base: str, lora: Path, prompts: Path, strengths: str, *, picture: Path, within_s: float = DRAW_S) -> None:
    """Have the engine draw. Raises JobFailed."""
    command = [
        sys.executable, "-W", "ignore", "-m", "gpurent_engine", "grid", "--base", base, "--lora", str(lora),
        "--prompts", str(prompts), f"--strengths={strengths}", "--out", str(picture),
    ]  # fmt: skip
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=within_s)
    except subprocess.TimeoutExpired as error:
        raise JobFailed(f"the picture was not drawn in {within_s / 60:.0f} minutes") from error
    if ended.returncode != 0:
        said = quoted(ended.stderr.strip(), 300, end=True)
        hint = "Does the file belong to this base model? `gpurent lora show` says its family."
        raise JobFailed(f"the picture could not be drawn; the engine says {said}", hint=hint)


def _require_lora(file: Path) -> None:
    if not file.is_file():
        raise UsageError(f"{file} does not exist", hint="Give the .safetensors file of a LoRA.")
    try:
        tensor_names(file, most=HEADER)
    except (ValueError, OSError) as error:
        raise UsageError(f"{file} is not a LoRA: {error}", hint="Give the .safetensors file of a LoRA.") from error


def _base(text: str) -> str:
    """A folder or file that is there, or a hub id."""
    path = Path(text).expanduser()
    if path.exists():
        return str(path.resolve())
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and not text.endswith(".safetensors"):
        return text
    raise UsageError(
        f"the base model {text} does not exist", hint="Give a folder, a .safetensors file, or a hub id OWNER/NAME."
    )


def _numbers(option: str, text: str) -> list[float]:
    found = []
    for word in text.split(","):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not abs(number) <= 10:
            raise UsageError(f"{option}: {word.strip()!r} is not a number up to 10", hint=f"{option} 0.5,0.8,1.0")
        found.append(number)
    return found


def _seed(word: str) -> int:
    try:
        seed = int(word)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seeds: {word.strip()!r} is not a whole number from 0 on", hint="--seeds 1,2")
    return seed
