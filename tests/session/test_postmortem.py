"""What is left of a run that failed."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.stub.engine import Orders
from tests.thorough import THE_REST

from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
from gpurent.errors import JobFailed
from gpurent.jobs import postmortem


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("the engine ended with status 137 and did not say why", "vae_batch_size"),
        ("the engine ended with status 1 and did not say why", "engine.log"),
    ],
)
def test_a_known_remedy_is_not_hidden_by_a_hint_to_the_log(tmp_path: Path, message: str, remedy: str) -> None:
    """137 is the kernel's answer to a machine without memory; only what nobody knows is left to the log."""
    error = JobFailed(f"training failed (internal): {message}", code="internal", hint="see engine.log")
    with closing(Ledger.open(tmp_path / "ledger.db", SystemClock())) as ledger:
        made = postmortem.write(ledger, "r", tmp_path / "r", error)
    assert remedy in made.remedy


@pytest.mark.parametrize("engine", ["stub", pytest.param("real", marks=[pytest.mark.real_engine, THE_REST])])
def test_a_failed_run_leaves_all_that_a_person_needs(cli: Cli, stub: StubEngine, engine: str) -> None:
    """A training that diverges: the folder holds events, log, the host's word and the ledger; ``why`` reads them."""
    remedy = "Lower the learning rates, unet_lr and text_encoder_lr."
    stub.order(Orders(fail_at=2, code="nan", remedy=remedy) if engine == "stub" else Orders())
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
    assert (told["failure"], "learning rates" in told["remedy"]) == ("not_a_number", True)
    shown = cli.run("why").stdout
    assert "diverged" in shown and "learning rate" in shown and "engine.log" in shown
