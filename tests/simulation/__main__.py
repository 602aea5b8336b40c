"""``python -m tests.simulation``: thousands of lives of the whole broker on virtual time, and what they showed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tests.simulation.campaign import Findings, campaign, play
from tests.simulation.coverage import possible
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import ELSEWHERE, draw

console = Console(width=min(140, Console().width))


def main() -> int:
    """Parse, play, print; 1 when an invariant was broken or something was never tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--lives", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="play this one life and show its schedule")
    parser.add_argument("--without", choices=sorted(MUTANTS), help="take one guarantee out; find a seed that shows it")
    parser.add_argument("--mutants", action="store_true", help="do that for every guarantee")
    options = parser.parse_args()
    if options.mutants or options.without:
        return _mutants([options.without] if options.without else sorted(MUTANTS), options.first, options.lives)
    if options.seed is not None:
        console.print(draw(options.seed))
        return _report(play([options.seed]), complete=False)
    began = time.monotonic()
    with Progress(console=console) as bar:
        task = bar.add_task("lives", total=options.lives)
        found = campaign(
            options.first, options.lives, options.processes, lambda so_far: bar.update(task, completed=so_far.lives)
        )
    status = _report(found, complete=True)
    console.print(f"{found.lives} lives in {time.monotonic() - began:.0f} s on {options.processes} processes")
    return status


def _report(found: Findings, *, complete: bool) -> int:
    tally = found.tally
    for title, counter in (
        ("faults that struck", tally.faults), ("lines of the ledger written", tally.lines),
        ("transitions of the ledger", tally.moves), ("what was checked", tally.checked),
        ("where clients died", tally.deaths), ("how the first command ended", tally.endings),
        ("counted apart: nobody of ours could act", tally.apart),
    ):  # fmt: skip
        _table(title, counter)
    for fault, why in ELSEWHERE.items():
        console.print(f"not here: {fault.value}: {why}")
    for seed, violations in found.broken:
        console.print(f"seed {seed}: {'; '.join(violations)}", style="red")
    _explain("no life takes", possible()[1])
    wrong = [f"never happened: {name}" for name in found.never if complete]
    wrong += [f"nobody had foreseen: {step}" for step in found.surprises]
    for line in wrong:
        console.print(line, style="red")
    console.print(f"{len(found.broken)} of {found.lives} lives broke an invariant")
    return 1 if found.broken or wrong else 0


def _explain(what: str, reasons: Mapping[str, str]) -> None:
    for reason in dict.fromkeys(reasons.values()):
        steps = ", ".join(step for step, why in reasons.items() if why == reason)
        console.print(f"{what}: {steps}: {reason}")


def _table(title: str, counter: Counter[str]) -> None:
    table = Table(title=title, show_header=False, title_justify="left")
    for name, count in counter.most_common():
        table.add_row(name, str(count))
    console.print(table)


def _mutants(names: list[str], first: int, lives: int) -> int:
    """Every mutant has to be found out."""
    alive = 0
    for name in names:
        found = play(range(first, first + lives), name, stop_at_first=True)
        for seed, violations in found.broken:
            console.print(f"without {name}: seed {seed} after {found.lives} lives: {'; '.join(violations)}")
        if not found.broken:
            console.print(f"without {name}: {lives} lives show nothing", style="red")
            alive += 1
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
