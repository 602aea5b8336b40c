"""Words of a host or a service on their way to a terminal, a file or JSON: no control, bounded, and marked as theirs.

A terminal obeys escape sequences (ECMA-48), and bidirectional or invisible characters (Unicode TR #36, "Trojan
Source", CVE-2021-42574) make a line read as another. What is not printable is removed or shown as an escape.
"""

from __future__ import annotations

import re
import unicodedata

LINE = 300
"""Characters of one line that are shown."""
MESSAGE = 2000
"""Characters of an error message, our own words included."""
_MARKS = 2
"""Combining marks on one character: more of them overlay the lines around it."""

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # CSI: moves the cursor, colours
    r"|(?:\x1b[P\]X^_]|[\x90\x9d\x98\x9e\x9f])[^\x07\x1b\x80-\x9f\n]{0,4096}(?:\x07|\x1b\\|\x9c)"  # strings
    r"|\x1b[ -/]{0,4}[0-~]"  # the short ones, such as a reset of the terminal
)
"""Whole escape sequences; strings are OSC, DCS, SOS, PM and APC. They say nothing to a reader and leave no trace."""
_SPACES = re.compile(r"\s+")


def clean(text: str, limit: int = LINE, *, end: bool = False) -> str:
    """One printable line of at most ``limit`` characters; a longer text loses its end, or with ``end`` its beginning.

    Escape sequences vanish, white space becomes one space, any other character that is not printable appears as its
    Python escape (``\\u202e``).
    """
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text.strip()
    kept = text[-4 * limit :] if end else text[: 4 * limit]
    shown = _SPACES.sub(" ", _visible(_SEQUENCE.sub("", kept))).strip()
    if len(kept) == len(text) and len(shown) <= limit:
        return shown
    return "…" + shown[len(shown) - limit + 1 :] if end else shown[: limit - 1] + "…"


def printable(text: str) -> str:
    """The same lines with nothing in them that a terminal obeys."""
    return "\n".join(map(_visible, text.split("\n")))


def block(text: str, limit: int) -> str:
    """Several printable lines, for a file that holds only the words of a host. Progress bars keep their last state."""
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text[:limit].split("\n"))
    return "\n".join(_visible(_SEQUENCE.sub("", line)).rstrip() for line in lines)


def quoted(text: str, limit: int = LINE, *, end: bool = False) -> str:
    """``clean`` in double quotes that the text itself cannot close: inside a sentence of ours it stays theirs."""
    return f'"{clean(text, limit, end=end).replace(chr(34), chr(39))}"'


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    made, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if character.isprintable():
            made.append(character if marks <= _MARKS else "")
        else:
            made.append(" " if character.isspace() else character.encode("unicode_escape").decode("ascii"))
    return "".join(made)
