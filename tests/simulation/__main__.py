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
from tests.simulation.campaign import Findings, campaign, play, stage
from tests.simulation.coverage import possible
from tests.simulation.drawing import draw
from tests.simulation.mutants import MUTANTS, keep, shown
from tests.simulation.schedule import ELSEWHERE
from tests.simulation.shrink import literal, shrink

console = Console(width=min(140, Console().width))
SHRUNK = 5
"""So many broken lives are reduced at the end of a campaign; ``--seed`` does it for any."""


def main() -> int:
    """Parse, play, print; 1 when an invariant was broken or something was never tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--lives", type=_positive, default=30_000)
    parser.add_argument("--first", type=int, help="first seed; from the clock when left out, and printed")
    parser.add_argument("--processes", type=_positive, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="play this one life, tell its story, and reduce it if it breaks")
    parser.add_argument("--without", choices=sorted(MUTANTS), help="take one guarantee out; find a seed that shows it")
    parser.add_argument("--mutants", action="store_true", help="do that for every guarantee")
    parser.add_argument("--keep", action="store_true", help="with these: keep the seeds in shown.json, for the tests")
    parser.add_argument("--batch", type=int, default=0, metavar="JOBS", help="every run is a batch of so many jobs")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(options.seed, options.batch)
    first = int(time.time() * 1000) if options.first is None else options.first  # the next campaign plays others
    console.print(f"first seed {first}: `--first {first}` plays the same lives again")
    if options.mutants or options.without:
        names = [options.without] if options.without else sorted(MUTANTS)
        return _mutants(names, first, options.lives, keeps=options.keep)
    began = time.monotonic()
    with Progress(console=console) as bar:
        task = bar.add_task("lives", total=options.lives)
        known = 0

        def heard(so_far: Findings) -> None:
            nonlocal known
            for seed, violations in so_far.broken[known:]:
                bar.console.print(f"seed {seed}: {_told(violations)}", style="red", markup=False, soft_wrap=True)
            known = len(so_far.broken)
            bar.update(task, completed=so_far.lives)
            if not console.is_terminal and so_far.lives % 1000 == 0:
                console.print(f"{so_far.lives} lives, {known} broken, {time.monotonic() - began:.0f} s")

        found = campaign(first, options.lives, options.processes, heard, batch=options.batch)
    status = _report(found, batch=options.batch > 0)
    for seed, _ in found.broken[: 0 if options.batch else SHRUNK]:
        _reduce(seed)
    seconds = time.monotonic() - began
    console.print(
        f"{found.lives} lives in {seconds:.0f} s on {options.processes} processes: {found.lives / seconds:.0f}/s"
    )
    return status


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _told(violations: list[str]) -> str:
    """Each once: what goes on is broken again and again."""
    return "; ".join(dict.fromkeys(violations))


def _one(seed: int, batch: int) -> int:
    """What happened in one life, line by line, and what it takes to break it."""
    story: list[str] = []
    with stage() as here:
        verdict = here.play(draw(seed), story=story, batch=batch)
    for line in (*story, *verdict.violations):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(literal(draw(seed)), markup=False, soft_wrap=True)
    console.print(f"the first command ended as: {verdict.ending}")
    if verdict.violations and not batch:
        _reduce(seed)
    return 1 if verdict.violations else 0


def _reduce(seed: int) -> None:
    with stage() as here:
        fewest = shrink(draw(seed), here.breaks)
        said = _told(here.play(fewest).violations)
    console.print(f"seed {seed} breaks with no more than this: {said}", style="red", markup=False, soft_wrap=True)
    console.print(literal(fewest), markup=False, soft_wrap=True)


def _report(found: Findings, *, batch: bool) -> int:
    """``batch``: such lives take steps of their own, and only add to the others."""
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
        console.print(f"seed {seed}: {_told(violations)}", style="red", markup=False)
    _explain("no life takes", possible()[1])
    pairs, apart = found.together
    console.print(f"{pairs - len(apart)} of {pairs} pairs of faults struck in the same life; never: {_named(apart)}")
    wrong = [f"never happened: {name}" for name in found.never]
    wrong += [f"nobody had foreseen: {step}" for step in found.surprises]
    wrong = [] if batch else wrong
    for line in wrong:
        console.print(line, style="red")
    console.print(f"{len(found.broken)} of {found.lives} lives broke an invariant")
    return 1 if found.broken or wrong else 0


def _named(pairs: list[tuple[str, str]]) -> str:
    return "; ".join(f"{one} + {other}" for one, other in pairs) or "none"


def _explain(what: str, reasons: Mapping[str, str]) -> None:
    for reason in dict.fromkeys(reasons.values()):
        steps = ", ".join(step for step, why in reasons.items() if why == reason)
        console.print(f"{what}: {steps}: {reason}")


def _table(title: str, counter: Counter[str]) -> None:
    table = Table(title=title, show_header=False, title_justify="left")
    for name, count in counter.most_common():
        table.add_row(name, str(count))
    console.print(table)


def _mutants(names: list[str], first: int, lives: int, *, keeps: bool) -> int:
    """Every mutant has to be found out. Seeds that still show theirs are kept as they are."""
    alive = 0
    for name in names:
        known = [shown()[name]] if keeps and name in shown() else []
        found = play([*known, *range(first, first + lives)], name, stop_at_first=True)
        for seed, violations in found.broken:
            console.print(f"without {name}: seed {seed} after {found.lives} lives: {_told(violations)}", markup=False)
            if keeps:
                keep({name: seed})
        if not found.broken:
            console.print(f"without {name}: {lives} lives show nothing", style="red")
            alive += 1
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
