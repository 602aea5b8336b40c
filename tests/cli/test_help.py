"""``gpurent help``: every page can be read without a clone, and messages name pages that exist."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from gpurent.cli import help as command
from gpurent.errors import UsageError

NAMED = re.compile(r"`gpurent help ([\w-]+)`")


def test_every_page_is_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """By its file's name, with its title; links to other pages become commands."""
    assert command.show(None) == 0
    listed = capsys.readouterr().out
    for name, path in command.pages().items():
        assert name in listed
        assert command.show(name) == 0
        page = capsys.readouterr().out
        assert page.startswith("# ") and "<!--" not in page
        assert not re.search(r"\]\([^)]*\.md", page), path


def test_no_two_pages_share_a_name(repository: Path) -> None:
    """One word is enough to name a page."""
    stems = Counter(path.stem for kind in command.KINDS for path in (repository / "docs" / kind).glob("*.md"))
    assert set(stems.values()) == {1}


def test_an_unknown_page_gets_the_nearest_name() -> None:
    """As a command would."""
    with pytest.raises(UsageError, match="there is no page 'mony'") as caught:
        command.show("mony")
    assert "'money'" in caught.value.hint


def test_a_page_may_be_named_by_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    """As the documentation and older messages write it."""
    assert command.show("docs/how-to/vast.md") == 0
    assert capsys.readouterr().out.startswith("# Rent from Vast.ai")


def test_messages_name_pages_that_exist(repository: Path) -> None:
    """Where a message sends the reader, a page is installed."""
    named = set()
    for folder in ("src", "providers", "remote"):
        for path in (repository / folder).rglob("*.py"):
            named |= {page for page in NAMED.findall(path.read_text(encoding="utf-8")) if page != "NAME"}
    assert len(named) > 3 and named <= set(command.pages())
