"""``gpurent receipt``."""

from __future__ import annotations

from gpurent.cli import output
from gpurent.cli.common import latest_run, open_broker


def run(run_id: str | None, *, as_json: bool) -> int:
    """Show the bill of one run."""
    with open_broker() as broker:
        found = broker.receipt(latest_run(broker, run_id))
        if as_json:
            output.print_json(found.to_dict())
        else:
            output.print_receipt(found)
    return 0
