"""What several commands share: opening the broker, finding job and run, the warning about rentals in doubt."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpurent.broker import Broker
from gpurent.budget.folding import Kept
from gpurent.cli import consoles
from gpurent.dataset.find import look
from gpurent.dataset.job import Job, Progressed
from gpurent.dataset.leftout import unused
from gpurent.errors import UsageError
from gpurent.report.doubt import in_doubt, untold
from gpurent.settings import LEDGER_FILE, Settings, ledger_url, load_settings, state_dir

_READ = Kept()
"""What this command has read of the ledger: the look at its end reads only what is new."""


def open_broker(folder: Path | None = None) -> Broker:
    """A broker on a folder's settings, the working folder's if none is given."""
    broker = Broker() if folder is None else Broker(settings=load_settings(folder))
    broker.resources.kept = _READ
    return broker


def read_job(
    broker: Broker, config: Path | None, dataset: Path | None, output: Path | None, *, quiet: bool,
    names_unused: bool = False, name: str | None = None,
) -> Job:  # fmt: skip
    """Check configuration and dataset, with a progress bar over the pictures.

    Of a dataset that is refused, or with ``names_unused``, the files that are not used are named on standard output.
    """
    with checking(quiet=quiet) as progress:
        found = look(
            Path.cwd(),
            settings=broker.settings,
            config=config,
            dataset=dataset,
            output=output,
            name=name,
            on_checked=progress,
        )
    for line in unused(found.left_out) if (found.errors or names_unused) and not quiet else ():
        consoles.make().print(line, style="dim")
    return found.result()


@contextmanager
def checking(*, quiet: bool) -> Iterator[Progressed]:
    """A progress bar over pictures that are checked."""
    from rich.progress import Progress

    console = consoles.make(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("Checking images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def latest_run(broker: Broker, run_id: str | None) -> str:
    """The given run, or the latest. Raises UsageError when there is none."""
    if run_id is not None:
        return broker.ledger.run(run_id).id
    latest = broker.ledger.latest_run()
    if latest is None:
        raise UsageError("No run was ever started here.", hint="`gpurent train --budget 10` starts one.")
    return latest.id


def warn_of_doubt(told: Collection[str] = (), *, as_json: bool = False) -> int:
    """Name on standard error what may run with nobody to look after it; 5 if there is any, else 0.

    Args:
        told: what the user was just told of, as ``provider:ref``.
        as_json: as one object.
    """
    if not ledger_url() and not (state_dir() / LEDGER_FILE).exists():
        return 0
    with Broker(settings=Settings()) as broker:  # what gpurent.toml says, or says wrongly, does not matter here
        broker.resources.kept = _READ
        doubtful = in_doubt(broker.ledger, broker.live_runs())
    news = untold(doubtful, told)
    hint = "`gpurent attach` goes on with it, `gpurent reap` ends it."
    if news and as_json:
        print(json.dumps({"warning": "in doubt", "refs": news, "hint": hint, "exit_code": 5}), file=sys.stderr)
    elif news:
        consoles.make(stderr=True).print(f"Nobody looks after {', '.join(news)}: {hint}", style="yellow")
    return 5 if doubtful else 0
