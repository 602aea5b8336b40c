"""``gpurent status``."""

from __future__ import annotations

from gpurent.cli import output
from gpurent.cli.common import open_broker
from gpurent.report.doubt import in_doubt


def run(*, all_runs: bool, as_json: bool) -> int:
    """Show runs from the ledger; what nobody looks after is named as after every command."""
    with open_broker() as broker:
        views = broker.status(all_runs=all_runs)
        doubtful = in_doubt(broker.ledger, broker.live_runs())
        if as_json:
            output.print_json({
                "runs": [
                    {
                        "run_id": view.run.id, "name": view.run.name, "outcome": view.run.outcome,
                        "client_alive": view.client_alive, "spent_micros": view.spent.micros,
                        "budget_micros": view.run.budget.micros,
                        "rentals": [
                            {"provider": one.provider, "ref": one.ref, "tag": one.tag, "state": one.state,
                             "hard_deadline": one.hard_deadline}
                            for one in view.run.rentals
                        ],
                    }
                    for view in views
                ],
                "in_doubt": doubtful,
            })  # fmt: skip
        else:
            output.print_status(views, broker.clock.now())
    return 0
