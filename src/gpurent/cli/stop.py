"""``gpurent stop``."""

from __future__ import annotations

from gpurent.cli import output
from gpurent.cli.common import latest_run, open_broker
from gpurent.cli.conducting import conduct


def run(run_id: str | None, *, as_json: bool) -> int:
    """Ask the run's own client, or do it here when that is gone."""
    with open_broker() as broker:
        chosen = latest_run(broker, run_id)
        conduct(broker, lambda front: broker.stop(chosen, tell=front.tell, interrupt=front.interrupt), as_json=as_json)
        if not broker.ledger.run(chosen).open_rentals:
            if not as_json:
                output.console.print(f"Nothing of {chosen} runs any more.")
            return 0
        if as_json:
            output.print_json_line("stop_requested", {"run_id": chosen})
        else:
            output.console.print(
                f"{chosen} was told to save, collect and destroy; `gpurent logs -f {chosen}` follows it."
            )
    return 0
