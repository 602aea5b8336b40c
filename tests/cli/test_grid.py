"""``gpurent grid``: which pictures are drawn, and what is refused before anything is."""

from __future__ import annotations

import struct
import tomllib
from pathlib import Path

import pytest

from gpurent.cli.grid import GridOptions, run
from gpurent.dataset.grid import rows_of, written
from gpurent.errors import UsageError


def test_the_trigger_stands_at_start_middle_and_end_with_and_without_the_negative_prompt() -> None:
    """Each with every seed; what comes out twice is drawn once."""
    rows = rows_of("zq", ["a cat, in the rain"], [1, 2], "blurry")
    assert [row.text for row in rows[::4]] == [
        "zq, a cat, in the rain",
        "a cat, zq, in the rain",
        "a cat, in the rain, zq",
    ]
    assert [(row.negative, row.seed) for row in rows[:4]] == [("", 1), ("", 2), ("blurry", 1), ("blurry", 2)]
    assert len(rows) == 12 and len(rows_of("zq", ["a cat"], [1], "")) == 2
    assert [row.text for row in rows_of("", ["a cat, outside"], [1], "")] == ["a cat, outside"]


def test_what_the_engine_reads_is_what_was_asked_for() -> None:
    """Quotes, backslashes and letters of any alphabet survive."""
    rows = rows_of('z"q\\', ["eine Gasse, 雨"], [7], "")
    found = tomllib.loads(written(rows, 12))
    assert found["steps"] == 12
    assert [(one["text"], one["seed"], one["negative"]) for one in found["prompt"]] == [
        (row.text, row.seed, row.negative) for row in rows
    ]
    assert found["prompt"][0]["label"].endswith("seed 7")


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """The smallest file of the format."""
    header = b'{"lora_x":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    return path


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"trigger": ""}, "neither a trigger nor a prompt"),
        ({"base": "./nowhere"}, "./nowhere does not exist"),
        ({"base": "sd15.safetensors"}, "does not exist"),
        ({"strengths": "0.5,much"}, "'much' is not a number"),
        ({"strengths": "nan"}, "'nan' is not a number"),
        ({"seeds": "1,-2"}, "'-2' is not a whole number"),
        ({"seeds": ",".join(map(str, range(200)))}, "more than 400"),
        ({"steps": 0}, "--steps 0"),
        ({"out": Path("/nowhere/x.png")}, "/nowhere does not exist"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(lora: Path, keys: dict[str, object], said: str) -> None:
    """With the option and what is wrong."""
    given: dict[str, object] = {"file": lora, "base": "owner/name", "trigger": "zq", **keys}
    with pytest.raises(UsageError, match=said):
        run(GridOptions(**given))  # type: ignore[arg-type]


def test_a_file_that_is_no_lora_is_named(tmp_path: Path) -> None:
    """Missing, or something else."""
    (tmp_path / "x.safetensors").write_text("no tensors")
    for name, said in (("y.safetensors", "does not exist"), ("x.safetensors", "is not a LoRA")):
        with pytest.raises(UsageError, match=said):
            run(GridOptions(tmp_path / name, "owner/name", "zq"))
