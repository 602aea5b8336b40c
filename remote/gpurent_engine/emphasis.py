"""Weights of words in a caption, as A1111 writes them: ``(word)`` × 1.1, ``(word:1.3)`` × 1.3, ``[word]`` ÷ 1.1.

A backslash before a bracket makes it a letter. Torch-free. The syntax is that of AUTOMATIC1111/stable-diffusion-webui
(its wiki, "Attention/emphasis"); kohya-ss/sd-scripts reads the same for ``weighted_captions``.
"""

from __future__ import annotations

import re

STEP = 1.1
_NUMBER = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)")
_PAIRS = {")": "(", "]": "["}

Piece = tuple[str, float]


def parse(text: str) -> list[Piece]:
    """Pieces of a caption with their weights; brackets that are never closed count to the end."""
    letters: list[Piece] = []
    open_: list[tuple[str, int]] = []

    def close(kind: str, factor: float) -> None:
        while open_:
            bracket, start = open_.pop()
            step = factor if bracket == kind else (STEP if bracket == "(" else 1 / STEP)
            letters[start:] = [(letter, weight * step) for letter, weight in letters[start:]]
            if bracket == kind:
                return

    at = 0
    while at < len(text):
        letter = text[at]
        number = _NUMBER.match(text, at) if letter == ":" and any(one == "(" for one, _ in open_) else None
        if letter == "\\" and at + 1 < len(text) and text[at + 1] in "()[]\\":
            letters.append((text[at + 1], 1.0))
            at += 2
        elif number is not None:
            close("(", float(number[1]))
            at = number.end()
        else:
            if letter in "([":
                open_.append((letter, len(letters)))
            elif letter in ")]" and any(one == _PAIRS[letter] for one, _ in open_):
                close(_PAIRS[letter], STEP if letter == ")" else 1 / STEP)
            else:
                letters.append((letter, 1.0))
            at += 1
    while open_:
        close(open_[-1][0], STEP if open_[-1][0] == "(" else 1 / STEP)
    return _joined(letters)


def _joined(letters: list[Piece]) -> list[Piece]:
    """Neighbours of one weight in one piece."""
    found: list[Piece] = []
    for letter, weight in letters:
        if found and abs(found[-1][1] - weight) < 1e-9:
            found[-1] = (found[-1][0] + letter, found[-1][1])
        else:
            found.append((letter, weight))
    return found


def plain(text: str) -> str:
    """The caption without its marks."""
    return "".join(piece for piece, _ in parse(text))
