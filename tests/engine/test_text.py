"""Captions to hidden states: chunks of 75 tokens, both encoders of SDXL, all computed a second way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as typed_transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine import tiny_families

from gpurent_engine.families import loading, tokenizer
from gpurent_engine.families.parts import Encoder, Parts
from gpurent_engine.text import Conditioner, encode, tokenise

transformers: Any = typed_transformers

CAPTIONS = ("zq style, red circle", "", "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 9)
FOLDERS: dict[str, Path] = {}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parts]:
    """A base of each family."""
    for name in ("sd15", "sd2", "sdxl"):
        FOLDERS[name] = tiny_families.build(tmp_path_factory.mktemp(name) / "base", name)
    return {name: loading.load(str(folder)) for name, folder in FOLDERS.items()}


def plain(
    encoder: Encoder, folder: Path, caption: str, chunks: int, skip: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One caption by transformers alone: tokenizer and model from the folder, layers run one after the other."""
    words = transformers.CLIPTokenizer.from_pretrained(folder / encoder.facts.tokenizer)
    kind = transformers.CLIPTextModelWithProjection if encoder.facts.pooled else transformers.CLIPTextModel
    model = kind.from_pretrained(folder / encoder.facts.folder)
    inner = getattr(model, "text_model", model)
    body = words(caption, add_special_tokens=False).input_ids[: 75 * chunks]
    fill = words.pad_token_id if encoder.facts.pad is None else encoder.facts.pad
    pieces, pooled = [], None
    for k in range(chunks):
        ids = [words.bos_token_id, *body[75 * k : 75 * k + 75], words.eos_token_id]
        end = len(ids) - 1
        row = torch.tensor([ids + [fill] * (77 - len(ids))])
        with torch.no_grad():
            hidden = inner.embeddings(row)
            mask = torch.full((1, 1, 77, 77), float("-inf")).triu(1)
            outputs = [hidden]
            for layer in inner.encoder.layers:
                made = layer(outputs[-1], mask)
                outputs.append(made[0] if isinstance(made, tuple) else made)
            chosen = outputs[len(outputs) - skip]
            pieces.append(inner.final_layer_norm(chosen) if encoder.facts.normed else chosen)
            if encoder.facts.pooled and k == 0:
                pooled = model.text_projection(inner.final_layer_norm(outputs[-1])[:, end])
    joined = torch.cat([pieces[0][:, :1], *(piece[:, 1:76] for piece in pieces), pieces[-1][:, 76:]], 1)
    return joined, pooled


@pytest.mark.parametrize("length", [75, 150, 225])
@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_hidden_states_equal_those_of_transformers_alone(bases: dict[str, Parts], family: str, length: int) -> None:
    """Short, empty and overlong captions, in one, two and three chunks, through each encoder of the family."""
    chunks = length // 75
    for encoder in bases[family].text_encoders:
        with torch.no_grad():
            hidden, pooled = encode(encoder, tokenise(encoder, CAPTIONS, chunks))
        assert hidden.shape[:2] == (len(CAPTIONS), length + 2)
        for row, caption in enumerate(CAPTIONS):
            wanted, its_pooled = plain(encoder, FOLDERS[family], caption, chunks, encoder.facts.layer)
            assert torch.allclose(hidden[row], wanted[0], atol=2e-6)
            if its_pooled is not None:
                assert pooled is not None and torch.allclose(pooled[row], its_pooled[0], atol=2e-6)


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_takes_an_earlier_layer_and_norms_it(bases: dict[str, Parts], skip: int) -> None:
    """For the families whose UNet sees normed states."""
    encoder = bases["sd15"].text_encoders[0]
    with torch.no_grad():
        hidden, _ = encode(encoder, tokenise(encoder, CAPTIONS), skip)
    for row, caption in enumerate(CAPTIONS):
        wanted, _ = plain(encoder, FOLDERS["sd15"], caption, 1, skip)
        assert torch.allclose(hidden[row], wanted[0], atol=2e-6)


def test_sdxl_ignores_clip_skip(bases: dict[str, Parts]) -> None:
    """As in kohya's trainer, its encoders always give the last but one layer."""
    encoder = bases["sdxl"].text_encoders[0]
    ids = tokenise(encoder, CAPTIONS)
    with torch.no_grad():
        assert torch.equal(encode(encoder, ids, 2)[0], encode(encoder, ids, 1)[0])


def test_a_caption_that_fills_a_chunk_ends_there(bases: dict[str, Parts]) -> None:
    """75 tokens: the first chunk is full and ends with the end token, the next holds nothing but its end."""
    for encoder in bases["sdxl"].text_encoders:
        words = encoder.tokenizer
        rows = tokenise(encoder, ["a " * 75], 2)[0].tolist()
        assert [row[0] for row in rows] == [words.start] * 2
        assert (rows[0][76], rows[0][75]) == (words.end, rows[0][1])
        assert rows[1][1:] == [words.end, *[words.pad] * 75]


def test_a_frozen_encoder_sees_each_caption_once(bases: dict[str, Parts]) -> None:
    """Cached states equal fresh ones, and a trained encoder gets tokens instead."""
    parts = bases["sdxl"]
    calls: list[int] = []
    handle = parts.text_encoders[0].model.register_forward_hook(lambda *_: calls.append(1))
    whole = Conditioner(parts.text_encoders, [False, False], chunks=1, clip_skip=None, device=torch.device("cpu"))
    first, again = whole(["x", "y", "x"]), whole(["y", "x"])
    handle.remove()
    assert len(calls) == 1 and first.tokens == (None, None)
    assert first.hidden[0] is not None and again.hidden[0] is not None and again.pooled is not None
    assert torch.equal(first.hidden[0][[1, 2]], again.hidden[0]) and again.pooled.shape == (2, 64)
    half = Conditioner(parts.text_encoders, [False, True], chunks=1, clip_skip=None, device=torch.device("cpu"))(["x"])
    assert half.tokens[0] is None and half.tokens[1] is not None
    assert half.hidden[1] is None and half.pooled is None


def test_the_vocabulary_for_single_files_is_openais() -> None:
    """Known ids of its byte pair encoder."""
    words = tokenizer.openai(None)
    assert (words.start, words.end, words.pad) == (49406, 49407, 49407)
    assert words.bodies(["a photo of a cat", "!"]) == [[320, 1125, 539, 320, 2368], [256]]
    assert words.backend.get_vocab_size() == 49408


def test_other_programs_code_gets_the_same_tokenizer() -> None:
    """As transformers' class, for diffusers' pipelines: start, end and the family's way of filling up."""
    for pad in (None, 0):
        ours = tokenizer.openai(pad)
        theirs = ours.for_transformers()("a cat", padding="max_length", max_length=77).input_ids
        assert theirs == [ours.start, *ours.bodies(["a cat"])[0], ours.end, *[ours.pad] * 73]


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_token_ids_are_those_of_transformers(text: str) -> None:
    """Whatever the text holds, our reader of tokenizer files gives what CLIPTokenizer gives."""
    example = Path(__file__).parents[2] / "examples" / "tiny-sd" / "tokenizer"
    theirs = transformers.CLIPTokenizer.from_pretrained(example)
    assert tokenizer.read(example, None).bodies([text]) == [theirs(text, add_special_tokens=False).input_ids]
