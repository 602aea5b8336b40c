"""``gpurent providers``."""

from __future__ import annotations

from gpurent.cli import output
from gpurent.cli.common import open_broker


def run(*, as_json: bool) -> int:
    """List what can be used and why the rest cannot."""
    with open_broker() as broker:
        ready = sorted(broker.opened)
        if as_json:
            problems = [{"name": one.name, "message": one.message, "hint": one.hint} for one in broker.problems]
            output.print_json({"ready": ready, "problems": problems})
            return 0
        for name in ready:
            play = "  (play money)" if broker.opened[name].facts.play_money else ""
            output.console.print(f"{name}  ready{play}")
        for problem in broker.problems:
            output.console.print(f"{problem.name}  {problem.message}  {problem.hint}", style="yellow")
    return 0
