"""Crops and colours that are drawn each time a picture is shown, as kohya's trainer draws them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.engine.run import run, spec
from tests.thorough import often

from gpurent_engine import augment, buckets
from gpurent_engine.augment import Face
from gpurent_engine.buckets import Placement
from gpurent_engine.data import ImageItem
from gpurent_engine.feed import size_row
from gpurent_engine.formats import datasets
from gpurent_engine.live import LiveEncoder, Shown
from gpurent_engine.reading import parse_spec
from gpurent_engine.spec import SpecError

SIZES = st.tuples(st.integers(64, 2000), st.integers(64, 2000))


@given(SIZES, st.booleans(), st.integers(0, 9))
def test_a_random_crop_lies_inside_the_picture(size: tuple[int, int], bucketed: bool, seed: int) -> None:
    """With buckets of the scaled picture, without them of the picture as it is, where it is large enough."""
    of = spec(random_crop=True, enable_bucket=bucketed, resolution=64, min_bucket_reso=32, max_bucket_reso=128,
              bucket_reso_steps=8)  # fmt: skip
    placement = buckets.place(size, of)
    cut = augment.cut(size, placement, of, None, draw=random.Random(seed))
    assert cut.resized == (placement.resized if bucketed else size)
    for at, side, goal in zip(cut.crop, cut.resized, placement.bucket, strict=True):
        assert 0 <= at <= side - goal


def test_every_crop_is_as_likely() -> None:
    """All places of a picture that is eight pixels too wide come about as often, the first and the last among them."""
    of, placement = spec(random_crop=True, enable_bucket=True, bucket_reso_steps=8), Placement((32, 32), (40, 32))
    found = [augment.cut((40, 32), placement, of, None, draw=random.Random(i)).crop[0] for i in range(900)]
    assert {*found} == {*range(9)} and all(60 < found.count(at) < 140 for at in range(9))


def test_a_face_is_found_by_the_name_of_its_file() -> None:
    """The last four of five parts or more; other names have none, and buckets leave faces alone."""
    of = spec(face_crop_aug_range="1.0,3.0")
    assert augment.face_of(of, Path("photo_310_220_96_90.png")) == Face(310, 220, 96, 90)
    for name in ("photo.png", "a_1_2_3.png", "a_b_1_2_3.png", "photo_0_220_96_90.png"):
        assert augment.face_of(of, Path(name)) is None
    assert (
        augment.face_of(
            spec(face_crop_aug_range="1,3", enable_bucket=True, bucket_reso_steps=8), Path("p_310_220_96_90.png")
        )
        is None
    )
    assert augment.face_of(spec(), Path("p_310_220_96_90.png")) is None


@given(SIZES, st.integers(1, 100), st.integers(1, 100), st.integers(1, 400), st.booleans(), st.integers(0, 9))
def test_a_face_is_shown_as_large_as_the_range_says(
    size: tuple[int, int], across: int, down: int, face_size: int, moved: bool, seed: int
) -> None:
    """Training size ÷ face lies in the range wherever the picture is neither enlarged nor too small; the face's centre
    is in the crop, unless chance moves the crop."""
    face = Face(max(1, size[0] * across // 101), size[1] * down // 101, face_size, face_size)
    of = spec(face_crop_aug_range=[1.5, 3.0], resolution=64, random_crop=moved)
    cut = augment.cut(size, Placement((64, 64), buckets.place(size, of).resized), of, face, draw=random.Random(seed))
    scale = cut.resized[0] / size[0]
    assert all(0 <= at <= side - 64 for at, side in zip(cut.crop, cut.resized, strict=True))
    cover = max(64 / size[0], 64 / size[1])
    if size != (64, 64) and cover * 1.02 < 64 / (face_size * 1.5) < 1:
        assert 1.4 < 64 / (face_size * scale) < 3.15
    if not moved:
        for at, centre in zip(cut.crop, (face.x, face.y), strict=True):
            assert at - 2 <= centre * scale <= at + 66


def test_a_third_of_the_pictures_changes_its_colours_a_little() -> None:
    """Half of them in hue, half in brightness; the rest are the same pictures."""
    picture = Image.new("RGB", (4, 4), (200, 80, 60))
    found = [augment.coloured(picture, random.Random(i)).getpixel((0, 0)) for i in range(600)]
    changed = [one for one in found if one != (200, 80, 60)]
    assert 140 < len(changed) < 240
    assert all(isinstance(one, tuple) and one[0] == max(one) for one in changed)  # still some red
    assert len({*changed}) > 60


def test_an_encoded_view_is_the_crop_that_it_says(pictures: Path) -> None:
    """Pixels, mask and crop belong together, mirrored and not: a VAE that only averages shows where they come from."""

    class Mean:
        def encode(self, stack: torch.Tensor) -> Any:
            mean = torch.nn.functional.avg_pool2d(stack, 1)
            distribution = type("D", (), {"mean": mean, "std": torch.zeros_like(mean)})
            return type("O", (), {"latent_dist": distribution})

    file = sorted(pictures.rglob("*.png"))[0]
    whole = Image.open(file).convert("RGB")
    item = ImageItem(file, 32, 32, "x", None)
    of = spec(random_crop=True, resolution=16)
    encoder = LiveEncoder(Mean(), torch.device("cpu"), 3, masked=False)
    for mirrored in (False, True):
        shown = [Shown(item, buckets.place((32, 32), of), of, mirrored, str(i)) for i in range(7)]
        found = encoder(shown)
        assert len({one.crop for one in found}) > 3
        for one in found:
            assert one.crop is not None
            left, top = (16 - one.crop[0] if mirrored else one.crop[0]), one.crop[1]
            wanted = whole.crop((left, top, left + 16, top + 16))
            pixels = torch.tensor(list(wanted.get_flattened_data()), dtype=torch.float32).reshape(16, 16, 3) / 127.5 - 1
            pixels = pixels.permute(2, 0, 1)
            assert torch.allclose(one.mean, pixels.flip(-1) if mirrored else pixels, atol=1e-6)
        again = encoder(shown)
        assert all(torch.equal(a.mean, b.mean) for a, b in zip(found, again, strict=True))


def test_sdxl_is_told_of_the_crop_that_was_drawn() -> None:
    """The true one; kohya's formula knows nothing of chance."""
    item, placement = ImageItem(Path("a.png"), 100, 50, "x", None), Placement((32, 32), (64, 32))
    assert size_row(item, placement, drawn=(5, 0)) == [50, 100, 0, 5, 32, 32]
    assert size_row(item, placement, kohyas=True, drawn=(5, 0)) == size_row(item, placement, kohyas=True)


@pytest.mark.parametrize("step", often(["plain", "merged"], ["merged"]))
def test_a_training_sees_other_crops_each_time(base_model: Path, pictures: Path, tmp_path: Path, step: str) -> None:
    """Other losses than with the crop in the middle, and the same ones in every run, however a step is computed."""
    keys: dict[str, object] = {"resolution": 16, "max_train_epochs": 1}
    middle = run(spec(**keys), base_model, pictures, tmp_path / "middle", step=step)
    moved = run(spec(**keys, random_crop=True), base_model, pictures, tmp_path / "moved", step=step)
    again = run(spec(**keys, random_crop=True), base_model, pictures, tmp_path / "again", step="plain")
    assert moved.losses[0] != middle.losses[0]
    assert moved.losses == pytest.approx(again.losses, rel=1e-4)


@pytest.mark.parametrize("key", ["random_crop", "color_aug"])
def test_with_cached_latents_kohyas_trainer_refuses_it_and_so_is_done_here(key: str) -> None:
    """In the training's own configuration, and in that of a dataset."""
    base = {"pretrained_model_name_or_path": "b", "cache_latents": True}
    with pytest.raises(SpecError, match="cannot be used together with cache_latents"):
        parse_spec({**base, key: True})
    with pytest.raises(SpecError, match="subset 1 cannot be used together with cache_latents"):
        datasets.apply(parse_spec(base), {"datasets": [{"subsets": [{"image_dir": "a", key: True}]}]})
    assert getattr(parse_spec({**base, "cache_latents": False, key: True}), key)


def test_with_cached_latents_faces_are_cut_in_the_middle_as_in_kohya() -> None:
    """Which is told; and a range that makes no sense is an error."""
    found = parse_spec({"pretrained_model_name_or_path": "b", "cache_latents": True, "face_crop_aug_range": "1,3"})
    assert found.face_crop_aug_range == () and "face_crop_aug_range" in dict(found.warnings)
    for wrong in ("3,1", "0,1", "1", "a,b", 3, [1, 2, 3]):
        with pytest.raises(SpecError, match="two numbers"):
            parse_spec({"pretrained_model_name_or_path": "b", "face_crop_aug_range": wrong})
