"""Where words for people go. Piped output and NO_COLOR carry no escape codes; what looks like markup is text.

What hosts and services say was made printable where it came in; the console sees to it once more.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from gpurent.untrusted.text import printable


class _Console(Console):
    """A reader who leaves is an ``OSError`` here, as everywhere else, and not the end of this process."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does; the only control codes in it are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that is being handled


def make(*, stderr: bool = False) -> Console:
    """A console on standard output or standard error; piped, it leaves lines as long as they are."""
    plain = bool(os.environ.get("NO_COLOR"))
    console = _Console(
        stderr=stderr, highlight=False, markup=False, emoji=False, color_system=None if plain else "auto"
    )
    console.soft_wrap = not console.is_terminal
    return console


def silence() -> None:
    """What nobody reads any more, a closed terminal or pipe, goes nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if _unread(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _unread(descriptor: int) -> bool:
    """Whether its reader has gone. Windows can tell that of sockets only: there, the caller has met an error."""
    if sys.platform == "win32":
        return True
    else:  # noqa: RET505  mypy reads both branches, each for its system
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return any(found & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, found in poll.poll(0))
