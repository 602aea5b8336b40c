"""Buckets, batches and step counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent_engine.buckets import Bin, Placement, batches_per_epoch, epoch_batches, length, place, resolutions
from gpurent_engine.reading import parse_spec
from gpurent_engine.spec import SpecError, TrainSpec

VECTORS = json.loads((Path(__file__).parent / "data" / "bucket_vectors.json").read_text())["rows"]
SIZES = st.tuples(st.integers(64, 4096), st.integers(64, 4096))


def spec(**keys: object) -> TrainSpec:
    given = {key: value for key, value in keys.items() if value is not None}
    return parse_spec({"pretrained_model_name_or_path": "base", **given})


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: "-".join(map(str, row[:7])))
def test_placement_equals_kohyas(row: list[int]) -> None:
    """Bucket and scaled size equal what kohya's BucketManager gave for the same picture and settings."""
    no_upscale, resolution, low, high, step, width, height, *expected = row
    found = place(
        (width, height),
        spec(
            resolution=resolution, enable_bucket=True, min_bucket_reso=low, max_bucket_reso=high,
            bucket_reso_steps=step, bucket_no_upscale=bool(no_upscale),
        ),
    )  # fmt: skip
    assert [*found.bucket, *found.resized] == expected


@pytest.mark.parametrize(
    ("area", "low", "high", "count"), [(512, 256, 1024, 17), (1024, 256, 2048, 41), (1024, 512, 2048, 33)]
)
def test_there_are_as_many_buckets_as_kohya_makes(area: int, low: int, high: int, count: int) -> None:
    """The list of buckets has kohya's length for the usual settings."""
    assert len(resolutions((area, area), low, high, 64)) == count


@given(SIZES, st.booleans(), st.booleans())
def test_the_scaled_picture_covers_its_bucket(size: tuple[int, int], enable: bool, no_upscale: bool) -> None:
    """Whatever the picture, it is never smaller than the bucket it is cropped to."""
    found = place(size, spec(enable_bucket=enable, bucket_no_upscale=no_upscale))
    assert found.resized[0] >= found.bucket[0] > 0 and found.resized[1] >= found.bucket[1] > 0


def test_without_buckets_everything_has_the_resolution() -> None:
    """Buckets off: scale to cover, crop to ``resolution``."""
    assert place((1920, 1080), spec(resolution="512,768")) == Placement((512, 768), (1365, 768))


@given(
    st.lists(st.tuples(st.sampled_from([(64, 64), (64, 128), (128, 64)]), st.integers(1, 5)), min_size=1, max_size=20),
    st.integers(1, 6), st.integers(0, 99), st.integers(0, 9),
)  # fmt: skip
def test_an_epoch_shows_each_picture_as_often_as_it_repeats(
    pictures: list[tuple[tuple[int, int], int]], size: int, seed: int, epoch: int
) -> None:
    """Each batch holds one bucket and at most ``batch_size``; counts are exact; the same seed gives the same order."""
    bins: list[Bin] = [(0, *one, size) for one, _ in pictures]
    repeats = [times for _, times in pictures]
    batches = epoch_batches(bins, repeats, seed, epoch)
    assert Counter(i for batch in batches for i in batch) == Counter(dict(enumerate(repeats)))
    assert all(len({bins[i] for i in batch}) == 1 and len(batch) <= size for batch in batches)
    assert len(batches) == batches_per_epoch(bins, repeats)
    assert batches == epoch_batches(bins, repeats, seed, epoch)


def test_epochs_differ_in_order() -> None:
    """Each epoch is shuffled again."""
    orders = {str(epoch_batches([(0, 64, 64, 3)] * 12, [1] * 12, 7, epoch)) for epoch in range(5)}
    assert len(orders) == 5


def test_step_counts_follow_kohya() -> None:
    """Short last batches count, accumulation rounds up, and epochs win over steps."""
    sizes, repeats = [(512, 512)] * 5 + [(1024, 512)], [3] * 6
    run = length(spec(enable_bucket=True, train_batch_size=4, max_train_epochs=2), sizes, repeats)
    assert (run.batches_per_epoch, run.steps_per_epoch, run.steps) == (5, 5, 10)
    run = length(
        spec(enable_bucket=True, train_batch_size=4, gradient_accumulation_steps=2, max_train_epochs=2), sizes, repeats
    )
    assert (run.steps_per_epoch, run.steps) == (3, 6)
    run = length(spec(train_batch_size=4, max_train_steps=12), sizes, repeats)
    assert (run.batches_per_epoch, run.epochs, run.steps) == (5, 3, 12)


@pytest.mark.parametrize(("keys", "skipped", "steps"), [
    ({"initial_epoch": 1}, 0, 15), ({"initial_epoch": 3}, 2, 5), ({"initial_step": 9}, 1, 10),
    ({"initial_step": 0, "initial_epoch": 3}, 2, 5), ({"max_train_epochs": None, "max_train_steps": 12}, 0, 12),
    ({"max_train_epochs": None, "max_train_steps": 12, "initial_epoch": 2}, 1, 10),
    ({"max_train_epochs": None, "max_train_steps": 12, "initial_step": 14}, 2, 5),
])  # fmt: skip
def test_a_training_may_begin_at_a_later_epoch(keys: dict[str, object], skipped: int, steps: int) -> None:
    """Whole epochs are left out, counted as kohya counts them; a 0 is one that a GUI writes for nothing."""
    run = length(spec(train_batch_size=4, **{"max_train_epochs": 3, **keys}), [(512, 512)] * 20, [1] * 20)
    assert (run.skipped, run.steps, run.epochs) == (skipped, steps, 3)


def test_a_training_that_would_begin_after_its_end_is_refused() -> None:
    """The message says where it ends."""
    with pytest.raises(SpecError, match=r"initial_epoch: is 4, but the run ends after 15 steps, with epoch 3\."):
        length(spec(train_batch_size=4, max_train_epochs=3, initial_epoch=4), [(512, 512)] * 20, [1] * 20)
