"""``gpurent reap``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict

from gpurent.broker import Broker
from gpurent.budget.reaper import Leave, Orphan
from gpurent.cli import output
from gpurent.cli.asking import confirm
from gpurent.cli.common import open_broker
from gpurent.cli.conducting import heeded
from gpurent.cli.live import LiveView
from gpurent.clock import SystemClock
from gpurent.errors import InDoubt, UsageError
from gpurent.jobs.interrupt import Interrupt
from gpurent.jobs.progress import Progress
from gpurent.report.doubt import in_doubt


def run(
    *, dry_run: bool, as_json: bool, all_accounts: bool = False, same_account: bool = False, yes: bool = False
) -> int:
    """Reap, and exit 5 while something may still run."""
    with open_broker() as broker:
        all_accounts = all_accounts and not dry_run and _agreed(broker, yes)
        clock = broker.clock
        interrupt = Interrupt(clock if isinstance(clock, SystemClock) else None)
        with heeded(interrupt, broker, leaves=True), nullcontext() if as_json else LiveView(output.console) as view:
            actions = broker.reap(
                dry_run=dry_run, all_accounts=all_accounts, same_account=same_account, tell=view or _silent,
                interrupt=interrupt,
            )  # fmt: skip
        if as_json:
            output.print_json([{"action": type(one).__name__.lower(), **asdict(one)} for one in actions])
        else:
            for action in actions:
                _say(action, dry_run)
        doubtful = in_doubt(broker.ledger, broker.live_runs())
        if doubtful and not dry_run:
            raise InDoubt("Not everything is confirmed gone yet.", refs=doubtful, hint="Run `gpurent reap` again.")
        if not actions and not as_json:
            output.console.print("Nothing is left over; nothing runs that nobody looks after.")
    return 0


def _silent(_event: Progress) -> None: ...


def _agreed(broker: Broker, yes: bool) -> bool:
    """Name the machines that only a tag connects with us, and ask."""
    orphans = [action.instance for action in broker.reap(dry_run=True) if isinstance(action, Orphan)]
    for one in orphans:
        output.notes.print(f"{one.provider}:{one.ref} ({one.gpu}, {one.price.gpu_hour}/h) carries our tag {one.tag}.")
    if not orphans or yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("Nobody is there to be asked.", hint="Add --yes to agree beforehand.")
    return confirm("Destroy them? They may be the work of another computer.")


def _say(action: object, dry_run: bool) -> None:
    match action:
        case Leave(tag=tag, reason=reason):
            output.console.print(f"{tag}: left alone, {reason}")
        case Orphan(instance=one):
            output.console.print(
                f"{one.provider}:{one.ref} carries our tag {one.tag} but is not in this ledger; it was left alone. "
                "`gpurent reap --all-accounts` ends it.", style="yellow"
            )  # fmt: skip
        case _ if dry_run:
            output.console.print(f"would do: {action}")
