"""Run a session in the foreground: its view, what signals do, and what happens when nobody can see it any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from gpurent.broker import Broker, Trained
from gpurent.cli import consoles, output
from gpurent.cli.live import JsonView, LiveView
from gpurent.clock import SystemClock
from gpurent.errors import GpurentError
from gpurent.jobs import signals
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.progress import Progress
from gpurent.jobs.signals import say
from gpurent.jobs.watch import Tell
from gpurent.plan.quote import QuoteRow
from gpurent.tasks import STEP_S, Overdue

T = TypeVar("T")
Q = TypeVar("Q")
"""A quote for a job, or for a batch."""
LEAVE_S = 1.2
"""What a command has to end in order after the user's wish to leave."""
TELL_S = 0.3
"""For the ledger to say what still runs, once it has not."""


@dataclass
class Foreground:
    """What a command that conducts a run has at hand. Until ``begin``, Ctrl-C ends it at once: nothing is rented."""

    tell: Tell
    interrupt: Interrupt
    begin: Callable[[], None]
    """From now on signals are wishes, and the view is shown."""

    def agreed(self, consent: Callable[[Q, QuoteRow], bool]) -> Callable[[Q, QuoteRow], bool]:
        """``consent``, after which the run begins."""

        def ask(quote: Q, best: QuoteRow) -> bool:
            if not consent(quote, best):
                return False
            self.begin()
            return True

        return ask


@contextmanager
def heeded(interrupt: Interrupt, broker: Broker, *, leaves: bool = False) -> Iterator[None]:
    """One SIGINT or SIGTERM more, one level higher; SIGHUP saves first. What ``nohup`` ignores stays ignored.

    A user who leaves has left two seconds later, whatever this process is held up by.

    Args:
        interrupt: what rises.
        broker: knows what still runs when the user leaves.
        leaves: the first signal already means to leave: there is nothing to save.
    """
    over = threading.Event()
    threading.Thread(target=_see_off, args=(interrupt, broker, over), daemon=True).start()
    try:
        with signals.heeded(interrupt, leaves=leaves, gone=consoles.silence):
            yield
    finally:
        over.set()


def _see_off(interrupt: Interrupt, broker: Broker, over: threading.Event) -> None:
    """Once the user leaves, end this process if it does not find its own way out, and say what may still run.

    It has looked for the wish all along: a signal handler can start no thread, whose locks its own thread may hold.
    """
    while interrupt.level < Stop.LEAVE:
        if over.wait(STEP_S):
            return
    if over.wait(LEAVE_S):
        return
    refs: list[str] = []
    try:
        refs = broker.clock.begin(broker.still_open).result(TELL_S)
    except (GpurentError, Overdue):
        say("The ledger does not answer.", consoles.silence)
    runs = "".join(f"  may still run: {ref}\r\n" for ref in refs)
    say(f"{runs}`gpurent status` shows what runs, `gpurent reap` ends it.", consoles.silence)
    os._exit(5)


@dataclass
class _Listener:
    """Shows a view what happens. A terminal or pipe that is gone means the user left: stop, but lose nothing."""

    view: Tell
    interrupt: Interrupt

    def __call__(self, event: Progress) -> None:
        try:
            self.view(event)
        except OSError:
            consoles.silence()
            self.interrupt.request(Stop.ORDERLY)


def conduct(
    broker: Broker, act: Callable[[Foreground], Trained | None], *, as_json: bool, asks_first: bool = False
) -> int:
    """Run ``act`` under a view, show what came of it, and return the exit code.

    Args:
        broker: whose run it is.
        act: what to do.
        as_json: events as JSON lines.
        asks_first: ``act`` calls ``begin`` itself, once the user has agreed.
    """
    trained, level = begun(broker, act, as_json=as_json, asks_first=asks_first)
    if trained is None:
        return 0
    if as_json:
        output.print_json_line("receipt", output.trained_dict(trained))
    else:
        output.print_receipt(trained.receipt)
        if trained.grid is not None:
            output.console.print(str(trained.grid), soft_wrap=True, markup=False, highlight=False)
    if not trained.stopped:
        return 0
    return 130 if level >= Stop.ORDERLY else 4


def begun(broker: Broker, act: Callable[[Foreground], T], *, as_json: bool, asks_first: bool = False) -> tuple[T, Stop]:
    """Run ``act`` under a view; what it returned, and how far the user's wish to stop had gone. See ``conduct``."""
    clock = broker.clock
    interrupt = Interrupt(clock if isinstance(clock, SystemClock) else None)
    view = JsonView() if as_json else LiveView()
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(heeded(interrupt, broker))
            stack.enter_context(view)

        if not asks_first:
            begin()
        return act(Foreground(_Listener(view, interrupt), interrupt, begin)), interrupt.level
