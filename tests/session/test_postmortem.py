"""What is left of a run that failed."""

from __future__ import annotations

import json

import pytest
from tests.session.world import Cli, make_job


@pytest.mark.real_engine
def test_a_failed_run_leaves_all_that_a_person_needs(cli: Cli) -> None:
    """A training that diverges: the folder holds events, log, the host's word and the ledger; ``why`` reads them."""
    rates = 'unet_lr = 1e3\ntext_encoder_lr = 1e3\nmax_grad_norm = 0\noptimizer_type = "SGDNesterov"\n'
    make_job(cli.folder, steps=60, extra=rates)
    ended = cli.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 1 and "gpurent why" in ended.stdout + ended.stderr
    (folder,) = (cli.folder / "state" / "runs").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"events.jsonl", "engine.log", "host.txt", "ledger.jsonl", "postmortem.json"} <= names
    assert (folder / "ledger.jsonl").read_text(encoding="utf-8").count("job_failed") == 1
    assert "Filesystem" in (folder / "host.txt").read_text(encoding="utf-8")
    told = json.loads(cli.run("why", "--json").stdout)["postmortem"]
    assert (told["failure"], "learning rate" in told["remedy"]) == ("not_a_number", True)
    shown = cli.run("why").stdout
    assert "diverged" in shown and "learning rate" in shown and "engine.log" in shown
