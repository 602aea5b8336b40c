"""What of a dataset is not used, and what cannot be read: named, with what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dataset.world import config, dataset, picture

from gpurent.dataset.job import Job
from gpurent.errors import DatasetError
from gpurent_engine.encodings import conversion, recognised

KOREAN = "zqx 머그컵, 나무 탁자 위에 놓인 하얀 컵"
JAPANESE = "zqx マグカップ、木のテーブルの上"


def job(folder: Path) -> Job:
    return Job.from_config(config(folder))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return dataset(tmp_path / "training_data", 20) / "10_sks_cat"


def test_files_that_are_left_out_are_named_with_the_reason(tmp_path: Path, pictures: Path) -> None:
    """Formats that are not read, hidden files, captions without a picture, folders in folders, anything else."""
    for name in (
        "cat.JXL",
        "dog.jxl",
        "old.psd",
        "._image000.png",
        "lonely.txt",
        "notes.pdf",
        "Thumbs.db",
        ".hidden.png",
        "image001.tags",
    ):
        (pictures / name).write_bytes(b"x")
    (pictures / "more").mkdir()
    dataset(tmp_path / "training_data", 2, "0_dog")
    (pictures.parent / "loose.png").write_bytes(b"x")
    (pictures.parent / "__MACOSX").mkdir()
    said = "\n".join(job(tmp_path).warnings)
    for words in (
        "2 images left out, because JPEG XL is not read: 10_sks_cat/cat.JXL, 10_sks_cat/dog.jxl. Convert",
        "1 image left out, because Photoshop is not read: 10_sks_cat/old.psd.",
        "1 hidden file left out, because its name begins with a dot: 10_sks_cat/.hidden.png.",
        "1 caption left out, because .tags is not looked for: 10_sks_cat/image001.tags. Set caption_extension",
        "1 image left out, because it is not in a folder named <repeats>_<concept>: training_data/loose.png.",
        "1 folder left out, because its name says 0 repeats: training_data/0_dog (2 pictures).",
        "1 caption left out, because there is no picture of that name: 10_sks_cat/lonely.txt.",
        "1 file left out, because it is neither picture nor caption: 10_sks_cat/notes.pdf.",
        "1 folder left out, because only files directly in a <repeats>_<concept> folder are used: 10_sks_cat/more.",
    ):
        assert words in said
    assert not any(junk in said for junk in ("Thumbs.db", "._image000.png", "__MACOSX"))


def test_a_complete_dataset_says_nothing_of_the_kind(tmp_path: Path, pictures: Path) -> None:
    """Twenty pictures with captions: nothing is left out."""
    assert not [one for one in job(tmp_path).warnings if "left out" in one]


def test_names_that_another_computer_would_read_otherwise_are_refused_at_home(tmp_path: Path, pictures: Path) -> None:
    """A zip from Windows unpacks to names with backslashes; each is named, and nothing is rented for them."""
    picture(pictures / "sub\\b.png")
    (pictures / "sub\\b.txt").write_text("sks cat")
    with pytest.raises(DatasetError, match=r"sub\\\\b\.png, sub\\\\b\.txt") as raised:
        job(tmp_path)
    assert "Rename" in raised.value.hint


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        (KOREAN, "utf-16", "UTF-16"),
        (KOREAN, "utf-16-le", "UTF-16LE"),
        ("zqx mug, on a table", "utf-16-be", "UTF-16BE"),
        (KOREAN, "cp949", "CP949"),
        (JAPANESE, "cp932", "SHIFT-JIS"),
        ("zqx 马克杯，放在木桌上的白色杯子，光线柔和", "gb18030", "GB18030"),
        ("zqx кружка, на деревянном столе", "cp1251", "CP1251"),
        ("zqx café, à côté de la fenêtre", "cp1252", "CP1252"),
    ],
)
def test_captions_in_other_encodings_are_recognised(
    tmp_path: Path, pictures: Path, text: str, codec: str, name: str
) -> None:
    """Named, with a command that converts them all, and that works."""
    caption = pictures / "image003.txt"
    caption.write_bytes(text.encode(codec))
    with pytest.raises(DatasetError, match=f"image003.txt: is {name} text, not UTF-8") as raised:
        job(tmp_path)
    command = raised.value.hint.partition(": ")[2]
    assert command == conversion(name, ".txt")
    if shutil.which("iconv") is None:
        pytest.skip("iconv is not installed")
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(caption, folder)
    subprocess.run(["sh", "-ec", command], cwd=folder, check=True)
    assert (folder / "image003.txt").read_text(encoding="utf-8").lstrip("\ufeff") == text


@given(st.binary(max_size=200))
def test_whatever_bytes_a_caption_has_it_gets_a_name(data: bytes) -> None:
    """Never an error, always an encoding that Python and iconv know."""
    assert b"".decode(recognised(data)) == ""
