"""The dataset on disk: kohya's folders, captions, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from gpurent.dataset import leftout
from gpurent_engine.data import DataError, scan


def put(path: Path, size: tuple[int, int] = (64, 48), caption: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def test_folders_give_repeats_and_concept(tmp_path: Path) -> None:
    """The number before the underscore is repeats, the rest the concept; sizes and captions are read."""
    put(tmp_path / "10_my cat" / "a.png", (64, 48), "my cat, sitting\nsecond line")
    put(tmp_path / "2_dog" / "b.JPG", (32, 80))
    found = scan(tmp_path)
    cat, dog = found.folders
    assert (cat.repeats, cat.concept, cat.images[0].caption) == (10, "my cat", "my cat, sitting, second line")
    assert (dog.images[0].width, dog.images[0].height, dog.images[0].caption) == (32, 80, "dog")
    assert found.repeats == (10, 2)


def test_a_turned_photograph_counts_as_it_is_seen(tmp_path: Path) -> None:
    """Orientation in the EXIF data swaps width and height."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "1_x").mkdir()
    Image.new("RGB", (80, 40)).save(tmp_path / "1_x" / "a.jpg", exif=exif)
    image = scan(tmp_path).images[0]
    assert (image.width, image.height) == (40, 80)


def test_caption_extension_is_obeyed(tmp_path: Path) -> None:
    """With the key set, only that suffix counts; without it .txt wins over .caption."""
    picture = put(tmp_path / "1_x" / "a.png", caption="from txt")
    picture.with_suffix(".caption").write_text("from caption")
    assert scan(tmp_path).images[0].caption == "from txt"
    assert scan(tmp_path, ".caption").images[0].caption == "from caption"


def test_other_folders_are_named_not_used(tmp_path: Path) -> None:
    """Folders without a number are left out, and listed."""
    put(tmp_path / "1_x" / "a.png")
    put(tmp_path / "backup" / "a.png")
    assert scan(tmp_path).skipped == ("backup",)


@pytest.mark.parametrize("name", ["._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png"])
def test_what_an_operating_system_left_is_no_picture(tmp_path: Path, name: str) -> None:
    """A zip made on a Mac holds a shadow of each picture: neither an error nor a remark."""
    put(tmp_path / "1_x" / "a.png", caption="cat")
    shadow = tmp_path / "1_x" / name
    shadow.parent.mkdir(exist_ok=True)
    shadow.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    found = scan(tmp_path)
    assert [one.path.name for one in found.images] == ["a.png"] and leftout.left_out(found) == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: None, "no folder named"),
        (lambda root: (root / "1_x").mkdir(), "no image"),
        (lambda root: put(root / "a.png"), "no folder named"),
        (lambda root: put(root / "1_" / "a.png"), "no caption"),
        (lambda root: put(root / "1_x" / "a.png", caption=" \n"), "is empty"),
        (lambda root: put(root / "1_x" / "a.png").write_bytes(b"not a picture"), "cannot be read"),
        (lambda root: put(root / "1_x" / "a.png").with_suffix(".txt").write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
        (lambda root: (put(root / "1_x" / "a.png"), put(root / "1_x" / "a.jpg")), "shares its caption"),
    ],
)
def test_what_cannot_be_trained_on_is_named(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    """Each defect is an error with the culprit's path and a remedy."""
    make(tmp_path)
    with pytest.raises(DataError, match=says) as caught:
        scan(tmp_path)
    assert caught.value.path.is_relative_to(tmp_path) and caught.value.hint


def test_a_missing_dataset_says_what_was_expected(tmp_path: Path) -> None:
    """The error for a missing folder describes the layout."""
    with pytest.raises(DataError, match="does not exist") as caught:
        scan(tmp_path / "nowhere")
    assert "10_my_concept" in caught.value.hint
