"""``gpurent check``: one page, or one JSON document, about everything that will be trained."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from tests.cli.world import Terminal
from tests.session.world import make_job

pytestmark = pytest.mark.usefixtures("nothing_rented")
CONFIG = "training_config.toml"


def test_a_good_job_is_told_on_one_page(alone: Terminal) -> None:
    """Facts for a person, exit 0, and the sheet where it was asked for. No key, no network."""
    make_job(alone.folder)
    ended = alone.run("check", "--sheet", "sheet.png")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "training_config.toml can be trained."
    assert any(line.startswith("2_colours   4 pictures × 2, 4 captions, trigger 'swatch'") for line in lines)
    assert lines[-1] == "Contact sheet: sheet.png"
    with Image.open(alone.folder / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_mistakes_come_first_and_all_at_once(alone: Terminal) -> None:
    """Exit 2; train and quote say the same."""
    config = make_job(alone.folder, extra="min_snr_gamma = -1\nnetwork_dmi = 4")
    folder = alone.folder / "training_data" / "2_colours"
    for name in ("red", "blue"):
        (folder / f"{name}.png").write_bytes(b"\0")
    (folder / "notes.pdf").write_bytes(b"x")
    ended = alone.run("check", str(config))
    assert ended.returncode == 2
    lines = ended.stdout.splitlines()
    assert lines[0] == "training_config.toml cannot be trained: 3 mistakes."
    mistakes = ("network_dmi is not a known key", "min_snr_gamma must be at least 0", "So is red.png.")
    for mistake, line in zip(mistakes, (one for one in lines if one.startswith("error: ")), strict=True):
        assert mistake in line
    assert "notes.pdf" in ended.stdout
    for command in (("train", "--budget", "1", "--dry-run"), ("quote",)):
        other = alone.run(*command)
        assert other.returncode == 2 and all(mistake in other.stderr for mistake in mistakes)
        assert "2 files cannot be used, as the errors say: 2_colours/blue.png, 2_colours/red.png." in other.stdout
        assert "2 captions left out, because its picture" in other.stdout and "notes.pdf" in other.stdout


def test_the_same_as_json(alone: Terminal) -> None:
    """Every mistake with its remedy, every file that is not used with its reason."""
    make_job(alone.folder)
    (alone.folder / "training_data" / "2_colours" / "notes.pdf").write_bytes(b"x")
    good = alone.run("check", str(alone.folder), "--json")
    found = json.loads(good.stdout)
    assert (good.returncode, found["ok"], found["errors"]) == (0, True, [])
    assert [one["path"].rpartition("/")[2] for one in found["left_out"]] == ["notes.pdf"]
    assert found["facts"]["buckets"] == [{"size": [64, 64], "pictures": 4}] and found["facts"]["steps"] == 4
    (alone.folder / CONFIG).write_text("network_dim = 0\n", encoding="utf-8")
    bad = alone.run("check", "--json")
    found = json.loads(bad.stdout)
    assert (bad.returncode, found["ok"]) == (2, False)
    assert found["errors"][0]["message"].startswith(
        f"{alone.folder / CONFIG}: pretrained_model_name_or_path is missing"
    )
    assert all(one["hint"] for one in found["errors"])


def test_a_quote_names_what_is_not_used(alone: Terminal) -> None:
    """In words, and for a program; before there is a bill for a dataset that lacks half of its pictures."""
    make_job(alone.folder)
    (alone.folder / "training_data" / "2_colours" / "raw.cr2").write_bytes(b"x")
    said = "1 image left out, because raw is not read: 2_colours/raw.cr2."
    assert said in alone.run("quote").stdout
    remarks = json.loads(alone.run("quote", "--json").stdout)["remarks"]
    assert any(one.startswith(said) for one in remarks)


def test_a_train_that_is_refused_lists_its_mistakes_in_json(alone: Terminal) -> None:
    """One object on standard error with all of them."""
    make_job(alone.folder, extra="min_snr_gamma = -1\nhuber_c = -1")
    ended = alone.run("train", "--budget", "1", "--yes", "--json")
    assert ended.returncode == 2
    assert [one["message"].partition(": ")[2] for one in json.loads(ended.stderr)["errors"]] == [
        "min_snr_gamma must be at least 0: a negative weight trains the wrong way.", "huber_c must be at least 1e-09.",
    ]  # fmt: skip
