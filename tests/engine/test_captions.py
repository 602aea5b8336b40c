"""Captions as they are drawn for a batch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpurent_engine.captions import draw
from gpurent_engine.spec import TrainSpec

TAGS = st.lists(st.text("abcdef", min_size=1, max_size=5), min_size=1, max_size=8)


def test_a_plain_caption_is_left_alone() -> None:
    """Without options the caption is used to the letter."""
    assert draw("a, b,c", TrainSpec("base"), 0, 0) == "a, b,c"


@given(TAGS, st.integers(0, 3), st.integers(0, 50), st.integers(0, 50))
def test_shuffling_keeps_the_first_tags_and_loses_none(tags: list[str], keep: int, epoch: int, place: int) -> None:
    """Kept tags stay first; the rest is a permutation; the same place draws the same order again."""
    spec = TrainSpec("base", shuffle_caption=True, keep_tokens=keep, seed=3)
    drawn = draw(", ".join(tags), spec, epoch, place)
    assert drawn.split(", ")[:keep] == tags[:keep] and sorted(drawn.split(", ")) == sorted(tags)
    assert drawn == draw(", ".join(tags), spec, epoch, place)


def test_dropout_empties_about_its_share() -> None:
    """A rate of one half empties about half of the captions, prefix and suffix included."""
    spec = TrainSpec("base", caption_dropout_rate=0.5, caption_prefix="p", caption_suffix="s")
    drawn = [draw("x", spec, 0, place) for place in range(400)]
    assert set(drawn) == {"", "p x s"} and 150 < drawn.count("") < 250
