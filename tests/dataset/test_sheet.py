"""The contact sheet shows what is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops
from tests.dataset.world import HUB, config, picture

from gpurent.dataset import sheet
from gpurent.dataset.survey import Survey, survey
from gpurent.errors import DatasetError, UsageError


def looked(folder: Path, count: int = 3, caption: str = "sks cat, on a chair") -> Survey:
    for number in range(count):
        file = picture(folder / "training_data" / "10_sks_cat" / f"a{number}.png", (300, 100), shade=number * 40)
        file.with_suffix(".txt").write_text(caption, encoding="utf-8")
    text = f'pretrained_model_name_or_path = "{HUB}"\ntrain_data_dir = "training_data"\nresolution = 128\n'
    return survey(config(folder, text))


def test_each_picture_is_drawn_as_it_is_cropped(tmp_path: Path) -> None:
    """The middle of a wide picture, pixel by pixel, with room for its caption below."""
    found = looked(tmp_path)
    drawn = sheet.write(found, tmp_path / "sheet.png")
    assert (drawn.drawn, drawn.left) == (3, 0)
    assert found.dataset is not None
    with Image.open(drawn.path) as shown, Image.open(found.dataset.images[0].path) as whole:
        seen = shown.crop((sheet.GAP, sheet.GAP, sheet.GAP + 128, sheet.GAP + 128))
        wanted = whole.resize((384, 128), Image.Resampling.LANCZOS).crop((128, 0, 256, 128))
        assert ImageChops.difference(seen, wanted).getbbox() is None
        below = shown.crop((0, sheet.GAP + 130, shown.width, sheet.GAP + 170)).convert("L")
        assert min(below.tobytes()) < 60  # ink


def test_long_captions_and_foreign_letters_are_no_trouble(tmp_path: Path) -> None:
    """Cut to a few lines; letters that no font has are told."""
    drawn = sheet.write(looked(tmp_path, 2, "고양이 \U0001fae8 " + "long words " * 90), tmp_path / "sheet.jpg")
    with Image.open(drawn.path) as shown:
        assert shown.height < 128 + 8 * (sheet.LINES + 4) + sheet.TEXT * (sheet.LINES + 2)
    assert drawn.unknown in (True, False)


def test_a_picture_that_cannot_be_decoded_keeps_its_place(tmp_path: Path) -> None:
    """Its frame is empty."""
    found = looked(tmp_path)
    assert found.dataset is not None
    whole = found.dataset.images[1].path.read_bytes()
    found.dataset.images[1].path.write_bytes(whole[: len(whole) // 2])
    assert sheet.write(found, tmp_path / "sheet.webp").drawn == 3


def test_a_sheet_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """No picture, no such format, no such folder; nothing half written stays behind."""
    found = looked(tmp_path)
    with pytest.raises(UsageError, match=r"sheet\.gif is not a name for a picture"):
        sheet.write(found, tmp_path / "sheet.gif")
    with pytest.raises(DatasetError, match="cannot be written"):
        sheet.write(found, tmp_path / "none" / "sheet.png")
    with pytest.raises(DatasetError, match="no picture for a contact sheet"):
        sheet.write(survey(tmp_path / "nothing.toml"), tmp_path / "sheet.png")
    assert not list(tmp_path.glob(".sheet*"))
