"""Processes that all do the same at the same moment. What they import is loaded once, for all of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from gpurent.budget.errors import BudgetError, LedgerError
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
from gpurent.money import Usd

Act = Callable[[str, Mapping[str, Usd]], str]


def reserve(url: str, limits: Mapping[str, Usd]) -> str:
    """Open the ledger and reserve one dollar; the run's id, or nothing when it does not fit."""
    ledger = Ledger.open_url(url, SystemClock())
    day, month = limits.get("per_day"), limits.get("per_month")
    try:
        return ledger.open_run("x", Usd.parse(1), output_dir=Path("out"), config={}, per_day=day, per_month=month)
    except BudgetError:
        return ""
    finally:
        ledger.close()


def count(url: str, limits: Mapping[str, Usd]) -> str:
    """Open the ledger and say how many runs it holds."""
    ledger = Ledger.open_url(url, SystemClock())
    try:
        return str(len(ledger.runs()))
    finally:
        ledger.close()


def _run(act: Act, url: str, limits: Mapping[str, Usd], line: Barrier, said: SimpleQueue[str]) -> None:
    line.wait(120)
    try:
        said.put(act(url, limits))
    except LedgerError as error:
        said.put(f"error: {error}")


def race(act: Act, url: str, limits: Mapping[str, Usd], number: int = 20) -> list[str]:
    """What ``number`` processes that start together say."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    line, said = context.Barrier(number), context.SimpleQueue()
    runners = [context.Process(target=_run, args=(act, url, limits, line, said)) for _ in range(number)]
    for runner in runners:
        runner.start()
    try:
        return [said.get() for _ in runners]
    finally:
        for runner in runners:
            runner.join(120)
