"""Signals as wishes: what Ctrl-C does while a run is on, in the command line and in a program of one's own."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gpurent.jobs.interrupt import Interrupt, Stop

WORDS = {
    Stop.ORDERLY: "Stopping: saving, collecting, destroying. Ctrl-C again destroys at once.",
    Stop.NOW: "Destroying at once. Ctrl-C again leaves the rental to its guards.",
    Stop.LEAVE: "Leaving the rental as it is.",
}
HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""A terminal that closes; Windows has no such signal."""
STOPPING = tuple(
    number for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if (number := getattr(signal, name, None))
)
"""What ends a command: Windows has no SIGHUP, and SIGBREAK (Ctrl-Break) instead."""


def _nothing() -> None:
    """Nobody minds."""


@contextmanager
def heeded(
    interrupt: Interrupt,
    *,
    numbers: tuple[int, ...] = STOPPING,
    leaves: bool = False,
    gone: Callable[[], None] = _nothing,
) -> Iterator[None]:
    """One signal more, one level higher; SIGHUP saves first. What ``nohup`` ignores stays ignored.

    Args:
        interrupt: what rises.
        numbers: the signals that are heard. Only the main thread can hear any.
        leaves: the first signal already means to leave: there is nothing to save.
        gone: called when nobody can read any more what is said.
    """

    def pressed(number: int, _frame: object) -> None:
        level = Stop.ORDERLY if number == HANGUP else interrupt.press()
        level = Stop.LEAVE if leaves else level
        interrupt.request(level)
        say(WORDS[level], gone)

    former = {number: signal.getsignal(number) for number in numbers}
    heard = [number for number, handler in former.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, pressed)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, former[number])


@contextmanager
def pressed_in_a_program(interrupt: Interrupt) -> Iterator[None]:
    """Ctrl-C as in the command line, in a program that has no handler of its own: it saves and collects first."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with heeded(interrupt, numbers=(signal.SIGINT,)):
            yield
    else:
        yield


def say(text: str, gone: Callable[[], None] = _nothing) -> None:
    """Say it from inside a signal handler, where Python's buffers may be in the middle of something.

    A terminal that was stopped, or a pipe that nobody reads, takes nothing just now and is not waited for.
    """
    try:
        if _takes_words():
            os.write(2, f"\r\n{text}\r\n".encode())
    except OSError:
        gone()


def _takes_words() -> bool:
    """Whether standard error can be written to without waiting."""
    if sys.platform == "win32":
        return True  # only sockets can be asked there
    else:  # noqa: RET505  mypy reads both branches, each for its system
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        return bool(poll.poll(0))
