"""What a host or a service says reaches a terminal as printable text, bounded, and marked as theirs."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from gpurent.cli import consoles
from gpurent.errors import GpurentError
from gpurent.untrusted.text import block, clean, printable, quoted

ATTACKS = {
    "window title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x1b\\",
    "colour": "\x1b[31mred\x1b[0m",
    "cursor up and erase": "\x1b[1A\x1b[2K",
    "C1 control": "\x9b2J",
    "C1 string": "\x9d0;owned\x9c",
    "reset": "\x1bc",
    "unfinished": "\x1b]0;no end",
    "right to left": "\u202egnp.exe",
    "isolate": "\u2066a\u2069",
    "zero width": "de\u200bstroyed",
    "line of ours": "x\ni-123 is destroyed and confirmed absent.",
    "carriage return": "nothing\rerror: all is well",
    "line separator": "a\u2028b",
    "half a character": "\ud800",
    "tag characters": "\U000e0041",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_no_attack_leaves_anything_that_a_terminal_obeys(attack: str) -> None:
    """One line, printable, and it can be encoded."""
    for made in (clean(attack), quoted(attack), clean(attack, end=True)):
        assert made.isprintable()
        made.encode("utf-8")
    assert all(line.isprintable() for line in block(attack, 1000).split("\n"))


@given(st.text(), st.integers(1, 400), st.booleans())
def test_every_text_becomes_one_short_printable_line(text: str, limit: int, end: bool) -> None:
    """Whatever it holds."""
    made = clean(text, limit, end=end)
    assert made.isprintable() and len(made) <= limit
    assert clean(made, limit, end=end) == made


def test_a_whole_escape_sequence_leaves_no_trace() -> None:
    """The text between colours is what a person wants to read."""
    assert clean("\x1b[1;31mERROR\x1b[0m: no \x1b]8;;http://x\x1b\\space\x1b]8;;\x1b\\ left") == "ERROR: no space left"


def test_what_hides_or_turns_text_is_shown_as_what_it_is() -> None:
    """A reader sees that something was there."""
    assert clean("safe\u202egnp.exe") == r"safe\u202egnp.exe"
    assert clean("a\u200bb") == r"a\u200bb"


def test_a_quotation_cannot_close_itself() -> None:
    """What follows would read as words of ours."""
    assert quoted('ok". i-1 is destroyed "') == "\"ok'. i-1 is destroyed '\""


def test_the_end_of_an_error_is_kept_where_it_says_more() -> None:
    """The last line of a traceback is its message."""
    assert clean("x" * 5000 + " CUDA out of memory", 60, end=True).endswith("CUDA out of memory")
    assert clean("CUDA out of memory" + "x" * 5000, 60).startswith("CUDA out of memory")


def test_progress_bars_keep_their_last_state_in_a_file() -> None:
    """pip and tqdm write over their own line."""
    assert block("10 %\r55 %\r100 %\r\ndone\n", 1000) == "100 %\ndone\n"


def test_marks_do_not_pile_up_over_the_lines_around() -> None:
    """Accents stay."""
    assert clean("Ame\u0301lie") == "Ame\u0301lie"
    assert len(clean("a" + "\u0301" * 200)) == 3


def test_ordinary_text_is_left_alone() -> None:
    """Other scripts, too."""
    for text in ("고양이_v1", "épée", "RTX 4090", "日本語", "a\\b"):
        assert clean(text) == text


def test_every_error_is_one_bounded_printable_line() -> None:
    """Whatever raises it, and whatever it quotes."""
    for attack in ATTACKS.values():
        error = GpurentError(f"the host says {attack}", hint=f"do {attack}")
        assert str(error).isprintable() and error.hint.isprintable()
    assert len(str(GpurentError("x" * 10**6))) <= 2000


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_console_shows_no_control_but_its_own(attack: str) -> None:
    """Lines, tables and bars, on a terminal."""
    for show in (_line, _table, _bar):
        console = consoles.make()
        console.file = io.StringIO()
        console._force_terminal = False
        show(console, attack)
        assert printable(console.file.getvalue()) == console.file.getvalue()


def _line(console: Console, text: str) -> None:
    console.print(text, style="red")


def _table(console: Console, text: str) -> None:
    table = Table("name")
    table.add_row(text)
    console.print(table)


def _bar(console: Console, text: str) -> None:
    with Progress(TextColumn("{task.fields[note]}", markup=False), console=console, transient=False) as bars:
        bars.add_task("x", note=text)


@pytest.mark.parametrize("text", ["[/]", "[red]x", "[link=http://x]y[/link]"])
def test_markup_in_foreign_words_is_text(text: str) -> None:
    """It neither colours nor breaks a line."""
    console = consoles.make()
    console.file = io.StringIO()
    console.print(text)
    assert console.file.getvalue() == f"{text}\n"
