"""Pictures as they come: every format and colour as a viewer shows it, checked against reference values."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from gpurent_engine import pictures
from gpurent_engine.pictures import Unreadable, read, size


def values(path: Path) -> list[tuple[int, int, int]]:
    """Colours of the first row."""
    array = np.asarray(read(path).image)
    return [tuple(int(one) for one in pixel) for pixel in array[0]]  # type: ignore[misc]


def close(found: tuple[int, ...], wanted: tuple[int, ...], by: int = 2) -> bool:
    """Within a few of 255 levels."""
    return all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


def test_sixteen_bits_of_grey_keep_their_tones(tmp_path: Path) -> None:
    """Pillow's own conversion cuts off what is over 255: a white sheet."""
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for suffix in (".png", ".tif"):
        Image.fromarray(levels).save(tmp_path / f"a{suffix}")
        assert values(tmp_path / f"a{suffix}") == [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]


def test_floats_are_read_between_0_and_1_and_refused_beyond(tmp_path: Path) -> None:
    """Beyond, they have no one meaning."""
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert values(tmp_path / "a.tif") == [(0,) * 3, (128,) * 3, (255,) * 3]
    Image.fromarray(np.array([[0.0, 900.0]], dtype=np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(Unreadable, match="0 to 1"):
        read(tmp_path / "b.tif")


def test_transparency_becomes_white(tmp_path: Path) -> None:
    """RGBA, grey with alpha, and a palette with a transparent colour."""
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(200, 0, 0, 255), (200, 0, 0, 0), (0, 0, 0, 128)])
    rgba.save(tmp_path / "rgba.png")
    assert values(tmp_path / "rgba.png") == [(200, 0, 0), (255, 255, 255), (127, 127, 127)]
    grey = Image.new("LA", (2, 1))
    grey.putdata([(10, 255), (10, 0)])
    grey.save(tmp_path / "la.png")
    assert values(tmp_path / "la.png") == [(10, 10, 10), (255, 255, 255)]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=1)
    assert values(tmp_path / "p.png") == [(255, 0, 0), (255, 255, 255)]
    alpha = read(tmp_path / "p.png").alpha
    assert alpha is not None and alpha.tobytes() == bytes((255, 0))


def test_cmyk_is_read_as_printed(tmp_path: Path) -> None:
    """A JPEG without a profile, by the plain rule 255 - ink."""
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert close(values(tmp_path / "a.jpg")[0], (255, 0, 0), 3)


DISPLAY_P3 = [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)]
"""Primaries of SMPTE EG 432-1 with D65, as Apple's profile has them."""


def profile(primaries: list[tuple[float, float]]) -> bytes:
    """An ICC profile with sRGB's curve and other primaries, adapted to D50 (Bradford; ICC.1:2022, annex E)."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    white = np.array([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290])
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    matrix = columns * np.linalg.solve(columns, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford
    matrix = adapt @ matrix
    count = int.from_bytes(made[128:132], "big")
    for i in range(count):
        tag = made[132 + 12 * i : 144 + 12 * i]
        name, offset = bytes(tag[:4]), int.from_bytes(tag[4:8], "big")
        if name in (b"rXYZ", b"gXYZ", b"bXYZ"):
            for j, value in enumerate(matrix[:, b"rgb".index(name[:1])]):
                at = offset + 8 + 4 * j
                made[at : at + 4] = round(float(value) * 65536).to_bytes(4, "big", signed=True)
        if name == b"desc":
            size_ = int.from_bytes(tag[8:12], "big")
            made[offset : offset + size_] = bytes(made[offset : offset + size_]).replace(b"s\0R\0G\0B", b"w\0i\0d\0e")
            made[offset : offset + size_] = bytes(made[offset : offset + size_]).replace(b"sRGB", b"wide")
    return bytes(made)


def by_hand(colour: tuple[int, int, int], primaries: list[tuple[float, float]]) -> tuple[int, ...]:
    """A colour of another RGB space in sRGB: linear light, matrices from the primaries, clipped (IEC 61966-2-1)."""

    def to_xyz(points: list[tuple[float, float]]) -> np.ndarray:
        white = np.array([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290])
        columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in points]).T
        return columns * np.linalg.solve(columns, white)

    srgb = [(0.640, 0.330), (0.300, 0.600), (0.150, 0.060)]
    v = np.array(colour) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    seen = np.linalg.inv(to_xyz(srgb)) @ to_xyz(primaries) @ linear
    seen = seen.clip(0, 1)
    curved = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    return tuple(round(float(one) * 255) for one in curved)


@pytest.mark.parametrize("colour", [(200, 100, 50), (90, 140, 200), (128, 128, 128), (60, 160, 80)])
def test_display_p3_is_converted_to_srgb(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    """Photographs of phones carry it; taken for sRGB their colours are dull."""
    Image.new("RGB", (4, 4), colour).save(tmp_path / "a.png", icc_profile=profile(DISPLAY_P3))
    assert close(values(tmp_path / "a.png")[0], by_hand(colour, DISPLAY_P3))
    if len(set(colour)) > 1:
        assert not close(values(tmp_path / "a.png")[0], colour)


def test_a_profile_of_srgb_changes_nothing_and_a_broken_one_is_told(tmp_path: Path) -> None:
    """Not by a single level."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (2, 2), (12, 130, 250)).save(tmp_path / "a.png", icc_profile=plain)
    assert values(tmp_path / "a.png")[0] == (12, 130, 250)
    Image.new("RGB", (2, 2), (12, 130, 250)).save(tmp_path / "b.png", icc_profile=b"no profile")
    opened = read(tmp_path / "b.png")
    assert opened.image.getpixel((0, 0)) == (12, 130, 250) and "colour profile" in opened.notes[0]


def test_exif_turns_the_picture_and_its_size(tmp_path: Path) -> None:
    """Orientation 6: the phone was held upright."""
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert size(tmp_path / "a.jpg") == (4, 8) == read(tmp_path / "a.jpg").image.size


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_of_an_animation_the_first_frame_is_used_and_that_is_said(tmp_path: Path, suffix: str) -> None:
    """GIF, WebP, APNG, and TIFF with several pages."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    more = {} if suffix == ".gif" else {"lossless": True}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **more)  # type: ignore[arg-type]
    opened = read(tmp_path / f"a{suffix}")
    assert close(opened.image.getpixel((4, 4)), (255, 0, 0)) and "first of 2" in opened.notes[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".avif", ".tiff", ".gif", ".jfif", ".bmp", ".webp"])
def test_formats_are_read_whatever_the_file_is_called(tmp_path: Path, suffix: str) -> None:
    """By what is in it: a name with the wrong suffix does no harm."""
    kind = {".jfif": "JPEG", ".tiff": "TIFF"}.get(suffix, suffix[1:].upper())
    Image.new("RGB", (32, 16), (10, 200, 30)).save(tmp_path / f"a{suffix}", kind)
    (tmp_path / "wrong.png").write_bytes((tmp_path / f"a{suffix}").read_bytes())
    for name in (f"a{suffix}", "wrong.png"):
        assert size(tmp_path / name) == (32, 16) and close(values(tmp_path / name)[0], (10, 200, 30), 6)
    assert suffix in pictures.SUFFIXES


def test_blank_pictures_are_named(tmp_path: Path) -> None:
    """One colour throughout, or wholly transparent."""
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "a.png")
    assert "blank" in read(tmp_path / "a.png").notes[0]
    clear = Image.new("RGBA", (8, 8), (1, 2, 3, 0))
    clear.save(tmp_path / "b.png")
    assert any("wholly transparent" in note for note in read(tmp_path / "b.png").notes)


def test_a_panorama_is_read_and_a_bomb_is_not(tmp_path: Path) -> None:
    """Pillow's own limit is 179 megapixels; ours is said with the number."""
    Image.new("1", (20_000, 10_000)).save(tmp_path / "wide.png")
    assert size(tmp_path / "wide.png") == (20_000, 10_000)
    Image.new("1", (30_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(Unreadable, match="600 megapixels; 400 are the most"):
        size(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    "spoil",
    [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"text", lambda data: data[:40] + b"\xff" * 99],
)
def test_what_is_damaged_is_refused_with_one_kind_of_error(spoil: Callable[[bytes], bytes]) -> None:
    """Whatever a library raises underneath."""
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(whole, "PNG")
    with pytest.raises(Unreadable):
        read(io.BytesIO(spoil(whole.getvalue())))


def test_odd_exif_data_is_passed_over_without_a_word_on_the_terminal(tmp_path: Path) -> None:
    """Pillow's own warning names no file; the picture is read, and so is its size."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 6), "red").save(path, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x00\x00\x00\x00\x08\x00\x05")
    assert size(path) == (8, 6)
    assert read(path).image.size == (8, 6)
