"""CLIP's byte pair encoding, through the ``tokenizers`` library and whatever files a model folder has.

transformers reads ``vocab.json`` with ``merges.txt`` before release 5 and writes ``tokenizer.json`` after it; each
reads the other's files only in part. Encoding itself never changed (Radford et al. 2021, github.com/openai/CLIP
``simple_tokenizer.py``).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from gpurent_engine.families import bpe
from gpurent_engine.families.parts import ModelError

START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids, without start and end."""

    backend: Any
    start: int
    end: int
    pad: int

    def bodies(self, captions: Sequence[str]) -> list[list[int]]:
        """Ids of each caption, as many as it has."""
        return [one.ids for one in self.backend.encode_batch(list(captions), add_special_tokens=False)]

    def for_transformers(self) -> Any:
        """The same tokenizer as a class of transformers, for its and diffusers' own code."""
        import transformers
        from tokenizers import Tokenizer as Backend
        from tokenizers.processors import RobertaProcessing

        backend: Any = Backend.from_str(self.backend.to_str())
        start, end, pad = (backend.id_to_token(one) for one in (self.start, self.end, self.pad))
        backend.post_processor = RobertaProcessing((end, self.end), (start, self.start), False, False)
        library: Any = transformers
        return library.PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token=start, eos_token=end, unk_token=end, pad_token=pad, model_max_length=77
        )


def openai(pad: int | None) -> Tokenizer:
    """The vocabulary of every real Stable Diffusion model, for single files, which bring none.

    Args:
        pad: id that fills up a caption; None for the end token.
    """
    packed = files("gpurent_engine.families").joinpath("clip_merges.txt.gz").read_bytes()
    merges = [tuple(line.split(" ")) for line in gzip.decompress(packed).decode("utf-8").splitlines()]
    letters = bpe.byte_letters().values()
    tokens = [*letters, *(f"{one}</w>" for one in letters), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    end = vocabulary[END]
    return Tokenizer(_backend(vocabulary, merges), vocabulary[START], end, end if pad is None else pad)


def read(folder: Path, pad: int | None) -> Tokenizer:
    """The tokenizer in a diffusers folder.

    Raises:
        ModelError: neither ``tokenizer.json`` nor ``vocab.json`` with ``merges.txt``, or one that cannot be read.
    """
    import tokenizers

    whole, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    try:
        if vocabulary.is_file() and merges.is_file():
            table = json.loads(vocabulary.read_text(encoding="utf-8"))
            lines = merges.read_text(encoding="utf-8").splitlines()
            backend = _backend(
                table, [tuple(one.split(" ")) for one in lines if one and not one.startswith("#version")]
            )
        elif whole.is_file():
            backend = tokenizers.Tokenizer.from_file(str(whole))
            backend.no_truncation()
            backend.no_padding()
        else:
            raise ModelError(f"{folder} holds neither tokenizer.json nor vocab.json and merges.txt")
        tokens = _special_tokens(folder)
        ids = {role: backend.token_to_id(tokens[role]) for role in ("bos", "eos", "pad")}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder} holds a tokenizer that cannot be read: {error}") from error
    except Exception as error:  # tokenizers raises plain Exception for a file it cannot parse
        if type(error) is not Exception:
            raise
        raise ModelError(f"{folder} holds a tokenizer that cannot be read: {error}") from error
    if ids["bos"] is None or ids["eos"] is None:
        raise ModelError(f"{folder} holds a tokenizer without {tokens['bos']} and {tokens['eos']}")
    fill = ids["eos"] if ids["pad"] is None else ids["pad"]
    return Tokenizer(backend, ids["bos"], ids["eos"], fill if pad is None else pad)


def _special_tokens(folder: Path) -> dict[str, str]:
    found = {"bos": START, "eos": END, "pad": END}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (folder / name).is_file():
            continue
        document = json.loads((folder / name).read_text(encoding="utf-8"))
        for role in found:
            value = document.get(f"{role}_token")
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                found[role] = value
    return found


def _backend(vocabulary: dict[str, int], merges: list[Any]) -> Any:
    from tokenizers import Regex, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    model = BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=END)
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_special_tokens([token for token in (START, END) if token in vocabulary])
    return backend
