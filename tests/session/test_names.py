"""Names in any script, from the configuration to the file at home."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine

from gpurent.expected import Expected
from gpurent.jobs import events
from gpurent.jobs.allowance import Allowance
from gpurent_engine.events import EventWriter
from gpurent_engine.filenames import LONGEST, epoch_name, final_name, good_name, step_name
from gpurent_engine.reading import parse_spec, read_toml
from gpurent_engine.spec import SpecError, TrainSpec

NASTY = (
    "고양이_v1", unicodedata.normalize("NFD", "고양이 é"), "_under (1) [2] + @ ' \" & $HOME `id` ; # %s {x} ~ ! =",
    "-rf", "\U0001f469\u200d\U0001f3a8\U0001f1f0\U0001f1f7", "全角\u3000空白", "a.b.c", "x" * LONGEST,
    "한" * (LONGEST // 3),
)  # fmt: skip
LETTERS = st.characters(exclude_categories=["Cs"], max_codepoint=0x1FFFF)
NAMES = st.one_of(st.sampled_from(NASTY), st.text(LETTERS, min_size=1, max_size=80))


def toml(text: str) -> str:
    """A basic string with every character that TOML wants escaped in that way."""
    plain = (f"\\U{ord(one):08X}" if one in '"\\' or ord(one) < 32 or ord(one) == 127 else one for one in text)
    return f'"{"".join(plain)}"'


@settings(max_examples=60, deadline=None)
@given(NAMES)
def test_a_name_is_refused_at_home_or_accepted_all_the_way(name: str) -> None:
    """Configuration, engine, events and plan agree on it; what is accepted is a file's name on any system."""
    document = read_toml("t.toml", f'pretrained_model_name_or_path = "x"\noutput_name = {toml(name)}')
    wanted = name[: -len(".safetensors")] if name.lower().endswith(".safetensors") else name
    try:
        spec = parse_spec(document)
    except SpecError as error:
        assert error.key == "output_name" and not good_name(wanted)
        return
    there = TrainSpec.from_dict(spec.to_dict())
    assert there.output_name == wanted and good_name(wanted)
    allowance = Allowance(Expected(wanted, 4, 2, 1, 2, 100))
    for step, file in ((2, step_name(wanted, 2)), (2, epoch_name(wanted, 1)), (4, final_name(wanted))):
        assert len(file.encode()) <= 255 and Path(file).name == file
        event = events.parse(line(path=file, sha256="0" * 64, size=9, step=step, final=step == 4))
        assert isinstance(event, events.Checkpoint) and event.path == file and allowance.wants(event)


def line(**fields: object) -> str:
    """One event of a checkpoint as the engine writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        with EventWriter(path) as out:
            out.emit("checkpoint", **fields)
        return path.read_text(encoding="utf-8")


def test_names_of_all_kinds_come_home(cli: Cli, stub: StubEngine) -> None:
    """A LoRA with a nasty name, learnt from pictures with nasty names in a folder with one, over real SSH."""
    config = make_job(cli.folder)
    name = "_고양이 é (v1) [2] + @ ' & $HOME `id` \U0001f469\u200d\U0001f3a8"
    config.write_text(config.read_text(encoding="utf-8").replace('"swatch"', toml(name)), encoding="utf-8")
    folder = cli.folder / "training_data" / "3_머그컵 (컵) ' $x"
    folder.mkdir()
    for number, one in enumerate((*NASTY[:-2], "Screenshot 3.00.00\u202fPM", "y" * 251, "한" * 83)):
        Image.new("RGB", (64, 64), (number * 20, 90, 200)).save(folder / f"{one}.png")
        (folder / f"{one}.txt").write_text(f"mug, {one}", encoding="utf-8")
    ended = cli.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 0, ended.stderr
    with safe_open(cli.folder / "output" / f"{name}.safetensors", "np") as file:
        assert file.keys()
