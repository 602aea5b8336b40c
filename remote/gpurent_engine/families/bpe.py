"""How many tokens CLIP makes of a caption, in plain Python: the client has no tokenizer library. Torch-free.

Byte pair encoding as in Radford et al. 2021 (github.com/openai/CLIP, ``simple_tokenizer.py``).
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise

BODY = 75
"""Tokens of a caption that one run of CLIP takes, beside start and end."""
_ENDINGS = re.compile(r"'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)


class Counter:
    """Counts tokens by one list of merges."""

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._letters = byte_letters()
        self._known: dict[str, int] = {}

    def tokens(self, caption: str) -> int:
        """Of one caption, without start and end."""
        text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", caption)).strip().lower()
        return sum(self._count(word) for word in _words(text))

    def _count(self, word: str) -> int:
        if word not in self._known:
            self._known[word] = self._merged(word)
        return self._known[word]

    def _merged(self, word: str) -> int:
        parts = [self._letters[byte] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = joined
        return len(parts)


def read_merges(lines: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs in the lines of a ``merges.txt``."""
    split = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return [(one[0], one[1]) for one in split if len(one) == 2]


@lru_cache(maxsize=1)
def openai() -> Counter:
    """By the vocabulary of every real Stable Diffusion model."""
    packed = files("gpurent_engine.families").joinpath("clip_merges.txt.gz").read_bytes()
    return Counter(read_merges(gzip.decompress(packed).decode("utf-8").splitlines()))


def byte_letters() -> dict[int, str]:
    """A printable letter for each byte, in the order of CLIP's vocabulary: bytes that print stand for themselves, the
    rest follow from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in plain}
    rest = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def _words(text: str) -> Iterator[str]:
    """Runs of letters, single digits, runs of anything else, and English endings, as CLIP's pattern parts them."""
    at = 0
    while at < len(text):
        if ending := _ENDINGS.match(text, at):
            yield ending[0]
            at = ending.end()
            continue
        kind = _kind(text[at])
        end = at + 1
        while kind in ("L", "other") and end < len(text) and _kind(text[end]) == kind:
            end += 1
        if kind != "space":
            yield text[at:end]
        at = end


def _kind(char: str) -> str:
    category = unicodedata.category(char)
    if char.isspace():
        return "space"
    return "L" if category[0] == "L" else "N" if category[0] == "N" else "other"
