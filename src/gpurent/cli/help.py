"""``gpurent help``: the pages of the documentation, as they were installed."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

from rich.markdown import Markdown
from rich.table import Table

from gpurent.cli import output
from gpurent.errors import UsageError
from gpurent.localfiles import read_text

MAX_BYTES = 1 << 20
KINDS = {"tutorial": "learn", "how-to": "do", "reference": "look up", "why": "understand"}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)\s]*?([\w-]+)\.md[^)\s]*\)")
_PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n", re.MULTILINE)
_REMARK = re.compile(r"<!--.*?-->\n?", re.DOTALL)


def folder() -> Path:
    """Where the pages are: beside the package in a wheel, in ``docs`` of a clone."""
    package = Path(__file__).resolve().parents[1]
    return package / "pages" if (package / "pages").is_dir() else package.parents[1] / "docs"


def pages() -> dict[str, Path]:
    """Every page by the name that ``gpurent help`` knows it by."""
    return {path.stem: path for kind in KINDS for path in sorted((folder() / kind).glob("*.md"))}


def readable(text: str, known: set[str]) -> str:
    """Without what a terminal cannot show; links to other pages become the command that shows them."""

    def command(link: re.Match[str]) -> str:
        words, page = link.groups()
        return f"{words} (`gpurent help {page}`)" if page in known else words

    return _LINK.sub(command, _PICTURE.sub("", _REMARK.sub("", text)))


def show(topic: str | None) -> int:
    """Print a page, or the list of all."""
    found = pages()
    if topic is None:
        return _list(found)
    name = topic.removesuffix(".md").rpartition("/")[2]
    if name not in found:
        close = difflib.get_close_matches(name, found, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"there is no page {topic!r}", hint=f"{hint}`gpurent help` lists the pages.")
    text = readable(read_text(found[name], MAX_BYTES), set(found))
    if sys.stdout.isatty():
        with output.console.pager(styles=True):
            output.console.print(Markdown(text))
    else:
        print(text, end="")
    return 0


def _list(found: dict[str, Path]) -> int:
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, path in found.items():
        title = read_text(path, MAX_BYTES).partition("\n")[0].removeprefix("# ").replace("`", "")
        table.add_row(KINDS[path.parent.name], name, title)
    output.console.print(table)
    output.console.print("`gpurent help NAME` shows a page; `gpurent COMMAND --help` the options of a command.")
    return 0
