"""``gpurent logs``."""

from __future__ import annotations

from gpurent.budget.client import is_alive
from gpurent.cli.common import latest_run, open_broker
from gpurent.untrusted.text import printable

POLL_S = 0.5


def run(run_id: str | None, *, follow: bool) -> int:
    """Print the events that came home, as JSON lines; with ``follow`` until the run is over."""
    with open_broker() as broker:
        chosen = latest_run(broker, run_id)
        folder = broker.run_dir(chosen)
        shown = 0
        while True:
            alive = is_alive(folder)
            path = folder / "events.jsonl"
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            for line in lines[shown:]:
                print(printable(line), flush=True)
            shown = len(lines)
            if not follow or not alive:
                return 0
            broker.clock.sleep(POLL_S)
