"""``gpurent watchdog``."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from gpurent.cli import output
from gpurent.cli.common import open_broker
from gpurent.clock import SystemClock
from gpurent.jobs import tending
from gpurent.jobs.detached import guarding
from gpurent.jobs.signals import HANGUP
from gpurent.report.doubt import in_doubt
from gpurent.settings import state_dir
from gpurent.watchdog import Watchdog, tend, with_settings


def run() -> int:
    """Guard in the foreground; a terminal that closes does not end it."""
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
    home = state_dir()
    if not Watchdog(home, open_broker, SystemClock(), partial(tending.Process, home)).run():
        output.notes.print("Another watchdog guards this computer's rentals.")
    return 0


def tend_run(run_id: str, folder: Path) -> int:
    """See one run to its end, as a worker of the watchdog."""
    tending.end_with(sys.stdin.buffer)
    home = state_dir()
    with with_settings(folder, open_broker, home) as broker, tending.shown(broker.run_dir(run_id), broker.clock):
        tend(run_id, broker)
    return 0


def status(*, as_json: bool) -> int:
    """Show what it does, and which rentals have neither client nor watchdog."""
    home = state_dir()
    told = guarding(home)
    with open_broker() as broker:
        alone = [] if told is not None else in_doubt(broker.ledger, broker.live_runs())
        now = broker.clock.now()
    if as_json:
        output.print_json({"running": told is not None, "alone": alone, **({} if told is None else asdict(told))})
    elif told is None:
        output.console.print("No watchdog runs; the next `gpurent train` starts one.")
    else:
        keys = ", ".join(sorted(told.providers)) or "no provider"
        output.console.print(f"Process {told.pid}, for {(now - told.since) / 60:.0f} min, with keys for {keys}.")
        for run in told.tending:
            output.console.print(f"Looks after {run}, whose command died.")
        for run in told.watching:
            output.console.print(f"Watches {run}, whose command lives.")
    return 0
