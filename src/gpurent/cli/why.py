"""``gpurent why``."""

from __future__ import annotations

from dataclasses import asdict

from gpurent.cli import output
from gpurent.cli.common import latest_run, open_broker
from gpurent.jobs import postmortem


def run(run_id: str | None, *, as_json: bool) -> int:
    """Say why a run failed, what to do, and where everything about it lies."""
    with open_broker() as broker:
        chosen = latest_run(broker, run_id)
        folder = broker.run_dir(chosen)
        found = postmortem.read(folder)
        outcome = broker.ledger.run(chosen).outcome
    if as_json:
        output.print_json(
            {"run_id": chosen, "outcome": outcome, "postmortem": None if found is None else asdict(found)}
        )
        return 0
    if found is None:
        output.console.print(f"{chosen} did not fail: {outcome or 'it has not ended'}.")
        return 0
    output.console.print(f"{chosen} failed: {found.message}", style="bold")
    output.console.print(f"cause   {found.cause}")
    output.console.print(f"do      {found.remedy}")
    output.console.print(f"next    {found.command}")
    output.console.print(f"files   {folder}: {', '.join(found.files)}", soft_wrap=True)
    return 0
