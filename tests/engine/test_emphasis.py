"""Captions that change from step to step, and words that weigh more than others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engine.run import spec

from gpurent_engine import captions, emphasis, text
from gpurent_engine.families import loading


@pytest.mark.parametrize(
    ("caption", "pieces"),
    [
        ("a red circle", [("a red circle", 1.0)]),
        ("a (red) circle", [("a ", 1.0), ("red", 1.1), (" circle", 1.0)]),
        ("a (red:1.5) circle", [("a ", 1.0), ("red", 1.5), (" circle", 1.0)]),
        ("[red] ((blue))", [("red", 1 / 1.1), (" ", 1.0), ("blue", 1.1**2)]),
        ("((red) sky:0.5)", [("red", 1.1 * 0.5), (" sky", 0.5)]),
        (r"\(red\) a:b", [("(red) a:b", 1.0)]),
        ("(open", [("open", 1.1)]),
        ("closed)", [("closed)", 1.0)]),
    ],
)
def test_marks_are_read_as_a1111_reads_them(caption: str, pieces: list[tuple[str, float]]) -> None:
    """Round brackets × 1.1 or the number, square ones ÷ 1.1, a backslash makes a letter of one."""
    found = emphasis.parse(caption)
    assert [piece for piece, _ in found] == [piece for piece, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


def test_weights_multiply_hidden_states(base_model: Path) -> None:
    """Where the word stands, and nowhere else."""
    encoder = loading.load(str(base_model)).text_encoders[0]
    conditioner = text.Conditioner(
        [encoder], [False], chunks=1, clip_skip=None, device=torch.device("cpu"), weighted=True
    )  # fmt: skip
    plain = text.Conditioner([encoder], [False], chunks=1, clip_skip=None, device=torch.device("cpu"))
    hidden, bare = conditioner(["(red:2) circle"]).hidden[0], plain(["red circle"]).hidden[0]
    assert hidden is not None and bare is not None
    count = len(encoder.tokenizer.bodies(["red"])[0])
    assert torch.allclose(hidden[0, 1 : 1 + count], 2 * bare[0, 1 : 1 + count])
    assert torch.allclose(hidden[0, 1 + count :], bare[0, 1 + count :]) and torch.allclose(hidden[0, 0], bare[0, 0])


def test_wildcards_stand_for_one_of_their_words() -> None:
    """Doubled braces are braces, and of several lines one is taken."""
    of = spec(enable_wildcard=True)
    seen = {captions.draw("a {red|blue} {{x}}\nb", of, 0, place) for place in range(60)}
    assert seen == {"a red {x}", "a blue {x}", "b"}


def test_tags_before_the_separator_stay_and_those_after_the_second_end_the_caption() -> None:
    """keep_tokens_separator, with shuffling between the two."""
    of = spec(shuffle_caption=True, keep_tokens_separator="|||")
    seen = {captions.draw("x, y ||| a, b, c ||| z", of, 0, place) for place in range(60)}
    assert len(seen) == 6 and all(one.startswith("x, y, ") and one.endswith(", z") for one in seen)


def test_secondary_separators_keep_tags_together() -> None:
    """They become commas in the end."""
    of = spec(shuffle_caption=True, secondary_separator=";;;")
    assert {captions.draw("a;;;b, c", of, 0, place) for place in range(30)} == {"a,b, c", "c, a,b"}


def test_tags_come_in_one_by_one_in_a_warm_up() -> None:
    """From token_warmup_min on, until all are there at token_warmup_step; as a share of the run below 1."""
    of = spec(token_warmup_min=1, token_warmup_step=0.5)
    counts = [len(captions.draw("a, b, c, d, e", of, 0, 0, step=step, steps=16).split(",")) for step in range(10)]
    assert counts == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_captions_are_dropped_every_n_epochs_and_tags_by_their_rate() -> None:
    """Epochs count from 1; kept tags are never dropped."""
    of = spec(caption_dropout_every_n_epochs=2)
    assert [bool(captions.draw("a", of, epoch, 0)) for epoch in range(4)] == [True, False, True, False]
    of = spec(caption_tag_dropout_rate=0.5, keep_tokens=1)
    drawn = [captions.draw("k, a, b", of, 0, place).split(", ") for place in range(400)]
    assert all(tags[0] == "k" for tags in drawn)
    assert 0.4 < sum(len(tags) - 1 for tags in drawn) / 800 < 0.6
