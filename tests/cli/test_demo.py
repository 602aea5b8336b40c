"""``gpurent demo``: quote to receipt to picture, with nothing but a checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from tests.cli.world import Terminal

PROMPTS = """
steps = 1
[[prompt]]
text = "lemon, fluent style"
seed = 1
"""


REAL = {"VAST_API_KEY": "a-key-for-real-money", "VAST_URL": "http://127.0.0.1:9"}
"""With a key for a service, the demo spends play money all the same."""


@pytest.mark.real_engine
@pytest.mark.thorough(
    shown_by="tests/session/test_commands.py::test_train_brings_verified_files_home_and_leaves_nothing_running"
)
def test_the_demo_trains_the_example_and_draws_what_it_learnt(alone: Terminal, repository: Path) -> None:
    """The example as it ships, but for one epoch and one prompt: LoRA and picture are there, and nothing runs."""
    shutil.copytree(repository / "examples", alone.folder / "examples", ignore=shutil.ignore_patterns("sample-*"))
    example = alone.folder / "examples" / "fluent-style"
    config = example / "training_config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("max_train_epochs = 6", "max_train_epochs = 1"))
    (example / "prompts.toml").write_text(PROMPTS, encoding="utf-8")
    ended = alone.run("demo", "--example", str(example), "--output", "out", **REAL)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "PLAY MONEY" in ended.stdout and "0 instances alive" in ended.stdout
    with safe_open(alone.folder / "out" / "fluent3d.safetensors", "np") as file:
        assert file.metadata()["ss_num_epochs"] == "1" and len(list(file.keys())) > 100
    with Image.open(alone.folder / "out" / "grid.png") as picture:
        assert picture.width > 5 * 192
