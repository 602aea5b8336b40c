"""``gpurent batch`` as its user sees it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.session.world import Cli, make_job


def three(folder: Path) -> Path:
    """A batch of three jobs on one configuration."""
    make_job(folder)
    path = folder / "batch.toml"
    path.write_text(
        'config = "training_config.toml"\n'
        + "".join(f'[[job]]\nname = "{name}"\nseed = {seed}\n' for seed, name in enumerate(("ant", "bee", "cat"))),
        encoding="utf-8",
    )
    return path


def test_a_batch_is_quoted_trained_and_then_done(cli: Cli) -> None:
    """A dry run rents nothing; a run ends with a line for each job; the next finds everything done."""
    three(cli.folder)
    dry = cli.run("batch", "batch.toml", "--budget", "1", "--dry-run")
    assert dry.returncode == 0 and "as separate rentals" in dry.stdout and "cat" in dry.stdout
    assert not cli.events()
    ran = cli.run("batch", "batch.toml", "--budget", "1", "--yes", "--json")
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    last = lines[-1]
    assert last["event"] == "batch" and last["complete"]
    assert [(one["name"], one["state"]) for one in last["jobs"]] == [(name, "done") for name in ("ant", "bee", "cat")]
    assert [line["name"] for line in lines if line["event"] == "job"] == ["ant", "bee", "cat"]
    assert sum(one["setup_micros"] + one["training_micros"] for one in last["jobs"]) == last["receipt"]["total_micros"]
    told = [json.loads(line) for line in cli.run("logs").stdout.splitlines()]
    assert [one["event"] for one in told].count("done") == 3
    again = cli.run("batch", "batch.toml", "--budget", "1", "--yes")
    assert again.returncode == 0 and again.stdout.count("done before") == 3
    assert len([event for event in cli.events() if event.kind == "run_opened"]) == 1


def test_nothing_is_rented_for_a_batch_with_a_mistake(cli: Cli) -> None:
    """Two jobs of one name, or no word of agreement: exit code 2, and a sentence that says what to do."""
    config = make_job(cli.folder)
    twins = cli.run("batch", str(config), str(config), "--budget", "1", "--yes")
    assert twins.returncode == 2 and "two jobs are called swatch" in twins.stderr
    unasked = cli.run("batch", str(config), "--budget", "1")
    assert unasked.returncode == 2 and "--yes" in unasked.stderr
    assert not cli.events()
