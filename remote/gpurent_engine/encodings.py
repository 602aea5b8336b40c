"""Recognising text that is not UTF-8, to say what it is and how to convert it. Torch-free."""

from __future__ import annotations

import codecs
import os
import re

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip
_HANGUL = re.compile("[\uac00-\ud7a3]")
_HAN = re.compile("[\u4e00-\u9fff]")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fe]")
_JAPANESE = re.compile("[\u3000-\u30ff\u4e00-\u9fff]")
_CYRILLIC = re.compile("[\u0410-\u044f]{3}")
_CODE_PAGES = {"CP949": 949, "SHIFT-JIS": 932, "GB18030": 54936, "CP1251": 1251, "CP1252": 1252}


def utf8(data: bytes) -> str:
    """Read UTF-8, with or without its mark.

    Raises:
        UnicodeDecodeError: it is something else; ``reason`` is its name. Text with NULs is, though it would decode.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnicodeDecodeError("utf-8", data, error.start, error.end, recognised(data)) from error
    if "\0" in text:
        raise UnicodeDecodeError("utf-8", data, 0, 1, recognised(data))
    return text


def recognised(data: bytes) -> str:
    """The encoding that ``data``, which is not UTF-8, most likely has; by the name that ``iconv`` knows."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    if 0 in data:  # spaces, commas and Latin letters have one in UTF-16, and nothing has one elsewhere
        return "UTF-16LE" if data[1::2].count(0) >= data[::2].count(0) else "UTF-16BE"
    # Korean decodes as Chinese as well, and Japanese as rare Korean: the strictest reading goes first.
    if _share(data, "euc_kr", _HANGUL) > 0.9:
        return "CP949"
    japanese = _share(data, "cp932", _JAPANESE)
    if japanese > 0.9 and _KANA.search(data.decode("cp932")):
        return "SHIFT-JIS"
    if _share(data, "gb18030", _HAN) > 0.6:
        return "GB18030"
    if _share(data, "cp949", _HANGUL) > 0.9:
        return "CP949"
    return "CP1251" if _CYRILLIC.search(data.decode("cp1251", "replace")) else "CP1252"


def _share(data: bytes, codec: str, script: re.Pattern[str]) -> float:
    """Part of the characters beyond ASCII that belong to a script; 0 for what does not decode."""
    try:
        letters = [char for char in data.decode(codec) if ord(char) > 127]
    except UnicodeDecodeError:
        return 0.0
    return sum(script.match(char) is not None for char in letters) / max(1, len(letters))


def conversion(encoding: str, suffix: str) -> str:
    """A command that converts every file of a folder with that suffix to UTF-8."""
    if os.name == "nt":
        page = "Unicode" if encoding.startswith("UTF-16") else str(_CODE_PAGES.get(encoding, 1252))
        kind = "[Text.Encoding]::Unicode" if page == "Unicode" else f"[Text.Encoding]::GetEncoding({page})"
        return (
            f"Get-ChildItem *{suffix} | ForEach-Object {{ "
            f"[IO.File]::WriteAllText($_, [IO.File]::ReadAllText($_, {kind})) }}"
        )
    loop = f'iconv -f {encoding} -t UTF-8 "$f" > "$f.new" && mv "$f.new" "$f"'
    return f"for f in *{suffix}; do {loop}; done"
