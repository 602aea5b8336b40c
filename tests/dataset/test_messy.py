"""Datasets as people have them: what the check says is what the engine then does, and no file is passed over."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gpurent.dataset.survey import Survey, survey
from gpurent_engine import data, pictures, suited
from gpurent_engine.reading import load_spec
from gpurent_engine.spec import SpecError, TrainSpec

ROOT = Path(__file__).parents[2]
BASE = ROOT / "examples" / "tiny-sd"
FACTOR, DEPTH = 4, 2
"""Of that base."""
STEMS = (
    "a", "b", "_c", "d e", " f ", "고양이", unicodedata.normalize("NFD", "고양이 é"), "(1) + [2] @ 3",
    "\U0001f469\u200d\U0001f3a8",
    "Screenshot 3.00.00\u202fPM", "全角\u3000空白", "x" * 200, "g.png", "100%", "it's", "#h", "-rf", "~", "CON",
    "i.j.k", "y" * 246, "한" * 82,
)  # fmt: skip
UNSENDABLE = ("sub\\b", "tab\there", "turn\u202eed")
FOLDERS = ("2_mug", "1_고양이", "3_", "0_mug", "mug", "１_mug", "02_a_b", "__MACOSX")
CAPTIONS: tuple[tuple[str, bytes], ...] = (
    (".txt", b"zqx mug, on a table"), (".TXT", b"zqx mug"), (".caption", b"zqx mug, a\nb\n"), (".png.txt", b"zqx"),
    (".txt", b""), (".txt", "머그컵 하나".encode("cp949")), (".txt", "zqx mug".encode("utf-16")),
    (".tags", b"zqx, mug"),
    (".txt", b"\xef\xbb\xbfzqx (mug:1.3) {a|b}"), (".txt", json.dumps({"caption": "zqx"}).encode()),
    (".txt", b"word " * 120), (".json", b"{}"), (".txt", b"\n\n"), (".txt", b"[1, 2"),
)  # fmt: skip
JUNK = (".DS_Store", "Thumbs.db", "._a.png", "notes.pdf", "cache.npz", "lonely.txt", ".hidden", "IMG.HEIC", "raw.CR2")


@cache
def encoded(mode: str, size: tuple[int, int], kind: str) -> bytes:
    out = io.BytesIO()
    picture = Image.linear_gradient("L").resize(size)
    if mode == "I;16":
        picture.convert("I").point(lambda value: value * 257).convert("I;16").save(out, kind)
    elif kind == "GIF":
        picture.save(out, kind, save_all=True, append_images=[picture.rotate(90)])
    else:
        picture.convert(mode).save(out, kind)
    return out.getvalue()


KINDS: tuple[tuple[str, str, str], ...] = (
    ("RGB", "PNG", ".png"), ("RGBA", "PNG", ".PNG"), ("L", "JPEG", ".jpg"), ("CMYK", "JPEG", ".jfif"),
    ("RGB", "WEBP", ".webp"), ("P", "PNG", ".png"), ("I;16", "PNG", ".png"), ("L", "GIF", ".gif"),
    ("1", "TIFF", ".tif"),
    ("LA", "PNG", ".png"), ("RGB", "PNG", ".jpg"), ("RGB", "BMP", ".bmp"),
)  # fmt: skip
SIZES = ((64, 64), (90, 61), (200, 20), (3, 200), (1, 1), (65, 130))


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes, tuple[str, bytes] | None]:
    """Name and content of a picture, and suffix and content of its caption."""
    mode, kind, suffix = draw(st.sampled_from(KINDS))
    content = encoded(mode, draw(st.sampled_from((*SIZES[:2] * 4, *SIZES))), kind)
    harm = draw(st.sampled_from(("",) * 40 + ("cut", "empty", "text")))
    content = {"cut": content[: len(content) // 2], "empty": b"", "text": b"no picture"}.get(harm, content)
    stem = draw(st.sampled_from(STEMS * 6 + UNSENDABLE))
    captions = st.one_of(st.sampled_from((*CAPTIONS[:1] * 40, *CAPTIONS)), st.none())
    return f"{stem}{suffix}", content, draw(captions)


LAYOUTS = st.dictionaries(
    st.sampled_from((FOLDERS[0],) * 12 + FOLDERS),
    st.tuples(st.lists(files(), min_size=1, max_size=4), st.sets(st.sampled_from(JUNK), max_size=3), st.booleans()),
    max_size=3,
)
SPECS = st.fixed_dictionaries({
    "resolution": st.sampled_from((64,) * 9 + (66,)), "enable_bucket": st.booleans(),
    "bucket_no_upscale": st.booleans(), "min_bucket_reso": st.just(32), "bucket_reso_steps": st.sampled_from((16, 64)),
    "enable_wildcard": st.booleans(), "clip_skip": st.sampled_from((1, 2) * 5 + (3,)),
    "caption_extension": st.sampled_from(("", "", ".txt", ".tags")),
})  # fmt: skip


Pictured = tuple[str, bytes, tuple[str, bytes] | None]
Layout = dict[str, tuple[list[Pictured], set[str], bool]]
"""By folder: pictures, junk beside them, and whether there is a folder in it."""


def lay_out(root: Path, folders: Layout) -> None:
    for name, (pictured, junk, nested) in folders.items():
        folder = root / name
        folder.mkdir(parents=True)
        for file, content, caption in pictured:
            (folder / file).write_bytes(content)
            if caption:
                (folder / f"{Path(file).stem}{caption[0]}").write_bytes(caption[1])
        for one in junk:
            (folder / one).write_bytes(b"x")
        if nested:
            (folder / "more").mkdir()
            (folder / "more" / "deep.png").write_bytes(b"x")
    root.mkdir(exist_ok=True)
    (root / "readme.md").write_bytes(b"x")


def engine(root: Path, spec: TrainSpec) -> list[str] | None:
    """The captions that the engine reads, or None where it gives up; as ``setup`` and ``latents`` do."""
    try:
        found = data.scan(root, spec.caption_extension, spec)
        for image, placement in zip(found.images, suited.checked(found, spec, FACTOR, DEPTH), strict=True):
            seen = pictures.read(image.path).image
            pictures.fitted(
                seen, placement.resized, placement.crop, placement.bucket, interpolation=spec.resize_interpolation
            )
    except (data.DataError, SpecError, pictures.Unreadable):
        return None
    return [one.caption for one in found.images]


def below(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file())


def passed_over(found: Survey, root: Path) -> list[Path]:
    """Files that are neither used, nor junk of a system, nor named."""
    assert found.dataset is not None
    used = {path for one in found.dataset.images for path in (one.path, one.caption_path)}
    told = {one.path for one in found.left_out}
    return [
        path for path in below(root)
        if path not in used
        and not {path, *path.parents} & told
        and not any(data.junk(one) for one in (path, *path.parents))
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(LAYOUTS, SPECS)
def test_the_check_says_what_the_engine_does_and_passes_no_file_over(layout: Layout, values: dict[str, object]) -> None:
    """Accepted: the host, which gets what is sent, reads the same captions. Refused: the engine gives up as well,
    except for names that cannot be sent, which only matter on the way."""
    with tempfile.TemporaryDirectory() as made:
        here = Path(made)
        lay_out(here / "training_data", layout)
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        config = here / "training_config.toml"
        config.write_text(
            "\n".join(
                (f"pretrained_model_name_or_path = {json.dumps(str(BASE))}", 'train_data_dir = "training_data"', *lines)
            )
        )
        found = survey(config)
        if found.job is not None:
            for file in found.job.upload_files():
                target = here / "host" / file.target
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.source, target)
            there = engine(here / "host" / "data", found.job.sent_spec)
            assert there == [one.caption for one in found.job.dataset.images]
        elif not all("cannot be sent" in str(one) for one in found.errors):
            assert engine(here / "training_data", load_spec(config)) is None
        if found.dataset is not None:
            assert passed_over(found, here / "training_data") == []
