"""The configuration of the tutorial that most people start from, byte for byte, from quote to files at home."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.dataset.world import dataset
from tests.hub import Hub, serving
from tests.session.world import ROOT, Cli
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent_sandbox.server import Sandbox

GUIDE = Path(__file__).parent / "data/guide.toml"
TINY = ROOT / "examples/tiny-sd"


def test_it_runs_unchanged(cli: Cli, sandbox: Sandbox, stub: StubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its base model is a path that its reader has not got: the machine pulls what that name means, and says so.

    Twenty pictures, ten repeats, ten epochs in batches of two: a file every two epochs, and the last.
    """
    monkeypatch.delenv("HF_TOKEN", raising=False)
    shutil.copy(GUIDE, cli.folder / "training_config.toml")
    dataset(cli.folder / "training_data", 20)
    stub.order(Orders(step_s=0.001, size=1 << 20))
    files = {one.relative_to(TINY).as_posix(): one.read_bytes() for one in TINY.rglob("*") if one.is_file()}
    with serving(Hub(files, "stable-diffusion-v1-5/stable-diffusion-v1-5")) as hub:
        (cli.folder / "gpurent.toml").write_text(f'[job]\nhubs = ["{hub.url}"]\n', encoding="utf-8")
        ended = cli.run("train", "--budget", "1", "--yes")
        pulled = [path for path, _, _ in hub.requests if "/resolve/" in path]
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "models/sd/v1-5-pruned.safetensors is not on this computer" in said and pulled
    made = sorted(path.name for path in (cli.folder / "output").glob("*.safetensors"))
    assert made == [*(f"my_lora-00000{epoch}.safetensors" for epoch in (2, 4, 6, 8)), "my_lora.safetensors"], said
    assert sandbox.truth() == []
