"""``gpurent reap``."""

from __future__ import annotations

from dataclasses import asdict

from gpurent.budget.reaper import Leave, Orphan
from gpurent.cli import output
from gpurent.cli.common import in_doubt, open_broker
from gpurent.cli.live import LiveView
from gpurent.errors import InDoubt


def run(*, dry_run: bool, as_json: bool) -> int:
    """Reap, and exit 5 while something may still run."""
    with open_broker() as broker:
        if as_json:
            actions = broker.reap(dry_run=dry_run)
            output.print_json([{"action": type(one).__name__.lower(), **asdict(one)} for one in actions])
        else:
            with LiveView(output.console) as view:
                actions = broker.reap(dry_run=dry_run, tell=view)
            for action in actions:
                _say(action, dry_run)
        doubtful = in_doubt(broker)
        if doubtful and not dry_run:
            raise InDoubt("Not everything is confirmed gone yet.", refs=doubtful, hint="Run `gpurent reap` again.")
        if not actions and not as_json:
            output.console.print("Nothing is left over; nothing runs that nobody looks after.")
    return 0


def _say(action: object, dry_run: bool) -> None:
    match action:
        case Leave(tag=tag, reason=reason):
            output.console.print(f"{tag}: left alone, {reason}")
        case Orphan(provider=provider, ref=ref, tag=tag):
            output.console.print(
                f"{provider}:{ref} carries our tag {tag} but is not in this ledger; it was left alone.", style="yellow"
            )
        case _ if dry_run:
            output.console.print(f"would do: {action}")
