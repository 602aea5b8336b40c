"""``gpurent logs``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from gpurent.budget.client import is_alive
from gpurent.cli.common import latest_run, open_broker
from gpurent.untrusted.text import printable

POLL_S = 0.5


def _number(path: Path) -> int:
    """Of the job of a batch whose events these are."""
    return int(path.parent.name)


def run(run_id: str | None, *, follow: bool) -> int:
    """Print the events that came home, as JSON lines; with ``follow`` until the run is over."""
    with open_broker() as broker:
        chosen = latest_run(broker, run_id)
        folder = broker.run_dir(chosen)
        shown: Counter[Path] = Counter()
        while True:
            alive = is_alive(folder)
            for path in (*folder.glob("events.jsonl"), *sorted(folder.glob("jobs/*/events.jsonl"), key=_number)):
                lines = path.read_text(encoding="utf-8").splitlines()
                for line in lines[shown[path] :]:
                    print(printable(line), flush=True)
                shown[path] = len(lines)
            if not follow or not alive:
                return 0
            broker.clock.sleep(POLL_S)
