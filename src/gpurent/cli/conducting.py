"""Run a session in the foreground: its view, and what signals do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gpurent.broker import Broker, Trained
from gpurent.cli import output
from gpurent.cli.live import JsonView, LiveView
from gpurent.clock import SystemClock
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.watch import Tell

_WORDS = {
    Stop.ORDERLY: "Stopping: saving, collecting, destroying. Ctrl-C again destroys at once.",
    Stop.NOW: "Destroying at once. Ctrl-C again leaves the rental to its guards.",
    Stop.LEAVE: "Leaving the rental as it is.",
}


@contextmanager
def _signals(interrupt: Interrupt) -> Iterator[None]:
    """One SIGINT or SIGTERM more, one level higher; SIGHUP stops in an orderly way."""

    def pressed(number: int, _frame: object) -> None:
        level = Stop.ORDERLY if number == signal.SIGHUP else interrupt.press()
        interrupt.request(level)
        output.notes.print(_WORDS[level], style="yellow")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, pressed) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def conduct(broker: Broker, act: Callable[[Tell, Interrupt], Trained | None], *, as_json: bool) -> int:
    """Run ``act`` under a view, show what came of it, and return the exit code."""
    clock = broker.clock
    interrupt = Interrupt(clock if isinstance(clock, SystemClock) else None)
    with _signals(interrupt), JsonView() if as_json else LiveView() as view:
        trained = act(view, interrupt)
    if trained is None:
        return 0
    if as_json:
        output.print_json_line("receipt", output.trained_dict(trained))
    else:
        play = all(opened.facts.play_money for opened in broker.opened.values())
        output.print_receipt(trained.receipt, play=play)
    if not trained.stopped:
        return 0
    return 130 if interrupt.level >= Stop.ORDERLY else 4
