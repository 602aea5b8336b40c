"""What comes home of a training that is watched: pictures, the best of it, an early end, curves; and nothing else."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent.errors import BadHostData
from gpurent.expected import Expected, Pictures
from gpurent.jobs.allowance import Allowance
from gpurent.jobs.events import Checkpoint, SamplePicture

EXPECTED = Expected(
    "disc", 8, 2, None, None, 1000, best=True, pictures=Pictures(2, every_epochs=1, first=True, pixels=64 * 64)
)
WATCHED = """
validation_split = 0.25
early_stopping_patience = 2
sample_prompts = "prompts.txt"
sample_every_n_epochs = 2
sample_at_first = true
logging_dir = "curves"
log_prefix = "my-"
"""


def picture(path: str, size: int = 9) -> SamplePicture:
    return SamplePicture(event="sample", path=path, sha256="0" * 64, size=size)


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Points by curve, from the records of an event file (TensorFlow's TFRecord: length, checksum, data, checksum)."""
    from tensorboardX.proto import event_pb2

    messages: Any = event_pb2  # made at run time
    found: dict[str, list[tuple[int, float]]] = {}
    (file,) = folder.glob("events.out.tfevents.*")
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = messages.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_a_watched_training_ends_early_and_brings_home_what_it_showed(cli: Cli, stub: StubEngine) -> None:
    """Pictures as they are drawn, a word of advice, why it ended, the best as the finished file, and curves."""
    make_job(cli.folder, steps=40, extra=WATCHED)
    (cli.folder / "prompts.txt").write_text("swatch, red heart --s 2\nswatch, blue heart --d 7\n", encoding="utf-8")
    stub.order(Orders(step_s=0.01, worse_from=4))
    ended = cli.run("train", "--budget", "1", "--yes")
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 0, said
    assert "loss of 1 held-out picture" in said and "The loss of held-out pictures rises." in said
    assert "It advises" in said and "Use the best." in said
    assert "Held-out pictures get no better: the training ends after step 8 of 40" in said
    output = cli.folder / "output"
    assert sorted(path.name for path in output.iterdir()) == ["sample", "swatch.safetensors"]
    drawn = sorted(path.name for path in (output / "sample").iterdir())
    assert drawn == [f"swatch_e{epoch:06d}_{index:02d}.png" for epoch in (0, 2, 4) for index in (0, 1)]
    with Image.open(output / "sample" / drawn[0]) as shown:
        assert shown.size == (1, 1)
    assert f"sample picture {output / 'sample' / drawn[0]}".replace(" ", "") in said.replace(" ", "")
    (place,) = (cli.folder / "curves").glob("my-*-swatch/network_train")
    found = curves(place)
    assert [step for step, _ in found["loss/validation"]] == [0, 2, 4, 6, 8]
    assert found["loss/validation"][1][1] == pytest.approx(1 / 3)
    assert {"loss/current", "loss/average", "lr/unet"} <= found.keys() and found["loss/average"][-1][0] == 8


def test_a_missing_prompt_file_is_told_before_anything_is_rented(cli: Cli) -> None:
    """By its key and path."""
    make_job(cli.folder, extra='sample_prompts = "nowhere.txt"\nsample_every_n_steps = 2\n')
    ended = cli.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 2 and "sample_prompts" in ended.stderr and "nowhere.txt is not a file" in ended.stderr
    assert cli.sandbox.truth() == [] and cli.events() == []


def test_only_pictures_of_the_plan_are_fetched() -> None:
    """Each once, not larger than its pixels, and by no other name."""
    allowance = Allowance(EXPECTED)
    first = picture("sample/disc_e000000_00.png")
    assert allowance.draws(first) and allowance.draws(picture("sample/disc_e000002_01.png"))
    allowance.drawn(first)
    assert not allowance.draws(first)
    for name in (
        "sample/disc_e000003_00.png",
        "sample/disc_000001_00.png",
        "sample/../../x.png",
        "disc_e000000_00.png",
    ):
        with pytest.raises(BadHostData, match="does not draw"):
            allowance.draws(picture(name))
    with pytest.raises(BadHostData, match="at most"):
        allowance.draws(picture("sample/disc_e000001_00.png", size=2_000_000))


def test_the_best_lora_is_fetched_where_pictures_are_held_out() -> None:
    """And the host may not invent one otherwise; bounds come back from the ledger as they were kept."""
    best = Checkpoint(event="checkpoint", path="disc-best.safetensors", sha256="0" * 64, size=9, step=3)
    assert Allowance(EXPECTED).wants(best)
    with pytest.raises(BadHostData, match="does not write"):
        Allowance(replace(EXPECTED, best=False)).wants(best)
    assert Expected.of({"expected": EXPECTED.kept()}, "disc") == EXPECTED
    steps = Pictures(1, every_steps=3)
    assert steps.names("d", 7, 2) == {"sample/d_000003_00.png", "sample/d_000006_00.png"}
