"""``gpurent attach``."""

from __future__ import annotations

from gpurent.cli.common import latest_run, open_broker
from gpurent.cli.conducting import conduct


def run(run_id: str | None, *, as_json: bool) -> int:
    """Take over and see it to its end."""
    with open_broker() as broker:
        chosen = latest_run(broker, run_id)
        return conduct(
            broker,
            lambda front: broker.attach(chosen, tell=front.tell, interrupt=front.interrupt),
            as_json=as_json,
        )
