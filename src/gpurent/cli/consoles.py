"""Where words for people go. Piped output and NO_COLOR carry no escape codes; what looks like markup is text."""

from __future__ import annotations

import os

from rich.console import Console


def make(*, stderr: bool = False) -> Console:
    """A console on standard output or standard error; piped, it leaves lines as long as they are."""
    plain = bool(os.environ.get("NO_COLOR"))
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False, color_system=None if plain else "auto")
    console.soft_wrap = not console.is_terminal
    return console
