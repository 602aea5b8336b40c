"""The caption that belongs to a picture: which file it is, and what of it is learnt. Torch-free."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpurent_engine import encodings
from gpurent_engine.pictures import SUFFIXES as PICTURES

SUFFIXES = (".txt", ".caption")
JOINED = "has several lines, which are joined (kohya's trainer uses the first only)"
FROM_JSON = "is JSON; only its caption is used"
RAW_JSON = "is JSON without a caption in it, and is learnt as it stands"
_ENDS = (".", "!", "?", ":", ";", "。", "！", "？", "…")
_CAPTIONS = ("caption", "text", "prompt", "description", "tags")

Names = Mapping[str, Sequence[Path]]
"""Files of a folder by their names as ``folded`` writes them."""


@dataclass(frozen=True)
class Text:
    """A caption as it is learnt, and what its owner may want to know, each a phrase that follows the file's name."""

    text: str
    notes: tuple[str, ...] = ()


def suffixes(extension: str) -> tuple[str, ...]:
    """What captions end in, by kohya's ``caption_extension``; in the order in which they are looked for."""
    if not extension:
        return SUFFIXES
    return (extension if extension.startswith(".") else f".{extension}",)


def folded(name: str) -> str:
    """A name without the differences that computers make: accents joined (macOS parts them), small letters."""
    return unicodedata.normalize("NFC", name).casefold()


def names(files: Sequence[Path]) -> Names:
    """Look up files by ``folded`` name."""
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(folded(file.name), []).append(file)
    return found


def find(picture: Path, extension: str, beside: Names) -> Path | None:
    """The caption of a picture: ``a.txt`` for ``a.png``, also ``a.TXT``, the same name in other Unicode, ``a.png.txt``.

    Args:
        picture: its path.
        extension: see ``suffixes``.
        beside: the files of its folder.
    """
    for stem in (picture.stem, picture.name):
        for suffix in suffixes(extension):
            wanted = f"{stem}{suffix}"
            files = [one for one in beside.get(folded(wanted), ()) if one.is_file()]
            if files:
                return min(files, key=lambda one: (one.name != wanted, one.name))
    return None


def from_metadata(file: Path) -> dict[str, Text]:
    """Captions by the ``folded`` name of their picture without its suffix, from the JSON of kohya's tools for tagging:
    ``{"folder/a.png": {"caption": "…", "tags": "…"}}``. Of both, tags follow the caption.

    Raises:
        OSError, ValueError: it cannot be read, or is something else.
    """
    document: Any = json.loads(encodings.utf8(file.read_bytes()))
    if not isinstance(document, dict):
        raise ValueError("it holds no JSON object")
    found = {}
    for key, entry in document.items():
        given = entry if isinstance(entry, dict) else {}
        parts = [one.strip() for one in (given.get("caption"), given.get("tags")) if isinstance(one, str)]
        name = key.replace("\\", "/").rpartition("/")[2]
        stem = name.rpartition(".")[0] if Path(name).suffix.lower() in PICTURES else name
        found[folded(stem)] = Text(", ".join(part for part in parts if part))
    return found


def read(data: bytes, *, lines: bool, separator: str = ",") -> Text:
    """Decode a caption.

    Args:
        data: the file's content.
        lines: keep lines apart, for ``enable_wildcard``, which chooses one of them.
        separator: of tags; joins lines that do not end a sentence.

    Raises:
        UnicodeDecodeError: it is not UTF-8; ``reason`` says what it is.
    """
    text = encodings.utf8(data).strip()
    notes = []
    if text.startswith(("{", "[")):
        inner = _in_json(text)
        if inner is not None:
            notes.append(FROM_JSON if inner else RAW_JSON)
            text = inner or " ".join(text.split())
    parts = [line.strip() for line in text.splitlines() if line.strip()]
    if lines or len(parts) < 2:
        return Text("\n".join(parts), tuple(notes))
    joined = parts[0].rstrip(separator).rstrip()
    for part in parts[1:]:
        joined += (" " if joined.endswith(_ENDS) else f"{separator} ") + part.strip(separator).strip()
    return Text(joined, (*notes, JOINED))


def _in_json(text: str) -> str | None:
    """The caption in a JSON object; empty where it has none; None where the text is not JSON."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return "" if isinstance(document, list) else None
    for key in _CAPTIONS:
        value = document.get(key)
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            value = ", ".join(value)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""
