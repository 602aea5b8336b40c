"""The receipt adds up, and says what is estimated and what was billed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.budget.world import intend

from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import ManualClock
from gpurent.model import Charges
from gpurent.money import ZERO, Usd
from gpurent.report.receipt import Receipt, make_receipt


def told(folder: Path, budget: str = "10", billed: str = "0.55") -> Receipt:
    """A refused attempt, then an hour's training that the provider billed."""
    folder.mkdir(exist_ok=True)
    clock = ManualClock()
    ledger = Ledger.open(folder / "ledger.db", clock)
    run_id = ledger.open_run("cat", Usd.parse(budget), output_dir=folder, config={})
    first = intend(ledger, run_id, clock.now(), 1)
    ledger.append(run_id, Kind.CREATE_REFUSED, tag=first, reason="taken")
    tag = intend(ledger, run_id, clock.now(), 2)
    for kind, data in (
        (Kind.CREATED, {"ref": "i-1"}), (Kind.REACHABLE, {}), (Kind.JOB_STARTED, {"job_id": "j"}),
        (Kind.CHECKPOINT_HOME, {"path": "cat.safetensors", "size": 5, "sha256": "0", "bytes_out": 10**9}),
    ):  # fmt: skip
        ledger.append(run_id, kind, tag=tag, **data)
    clock.advance(3600)
    ledger.append(run_id, Kind.GONE, tag=tag)
    ledger.append(run_id, Kind.CHARGED, tag=tag, charges=Charges(Usd.parse(billed)))
    ledger.append(run_id, Kind.RUN_CLOSED, outcome="done")
    receipt = make_receipt(ledger.run(run_id), clock.now() + 9999)
    ledger.close()
    return receipt


def test_the_total_is_the_sum_of_the_lines(tmp_path: Path) -> None:
    """Refused attempts are shown and cost nothing; the provider's final bill counts; budget = total + saved."""
    receipt = told(tmp_path)
    assert Usd.total([line.cost for line in receipt.lines]) == receipt.total == Usd.parse("0.55")
    assert [(line.failed, line.cost) for line in receipt.lines] == [(True, ZERO), (False, Usd.parse("0.55"))]
    assert receipt.total + receipt.saved == receipt.budget
    assert receipt.settled


def test_estimate_and_bill_stand_side_by_side(tmp_path: Path) -> None:
    """GPU, disk and traffic are estimated apart from what the provider says."""
    line = told(tmp_path).lines[1]
    assert line.estimate.gpu == Usd.parse("0.40")
    assert line.estimate.traffic_out == Usd.parse("0.02")
    assert line.estimate.disk > ZERO
    assert line.billed == Usd.parse("0.55")
    assert line.final


def test_it_serialises_and_renders(tmp_path: Path) -> None:
    """The same amounts appear in JSON, as whole micro-dollars, and in the rows for people."""
    receipt = told(tmp_path)
    data = json.loads(json.dumps(receipt.to_dict()))
    assert data["total_micros"] == 550_000
    assert data["artefacts"][0]["path"] == "cat.safetensors"
    rows = receipt.render_rows()
    assert any("failed attempt" in row[0] for row in rows)
    assert rows[-1] == ("saved", "$9.45", "")


def test_a_bill_above_the_budget_is_not_hidden(tmp_path: Path) -> None:
    """If a provider bills more than it listed, the receipt says by how much."""
    receipt = told(tmp_path, "1", "1.25")
    assert (receipt.saved, receipt.exceeded) == (ZERO, Usd.parse("0.25"))
    assert receipt.render_rows()[-1] == ("over budget", "$0.25", "")


def test_each_job_of_a_batch_has_a_share_and_all_shares_add_up_to_the_total(tmp_path: Path) -> None:
    """A rental without a job is set-up of those that were begun elsewhere; of a run of one job there is no such row."""
    assert [one.name for one in told(tmp_path / "one").jobs] == ["cat"]
    assert not any("of which" in row[0] for row in told(tmp_path / "other").render_rows())
    clock = ManualClock()
    ledger = Ledger.open(tmp_path / "ledger.db", clock)
    run_id = ledger.open_run("ant and 1 more", Usd.parse("10"), output_dir=tmp_path, config={})
    for number, names in ((1, ()), (2, ("ant", "bee"))):
        tag = intend(ledger, run_id, clock.now(), number)
        ledger.append(run_id, Kind.CREATED, tag=tag, ref=f"i-{number}")
        ledger.append(run_id, Kind.REACHABLE, tag=tag)
        clock.advance(600)
        for name in names:
            ledger.append(run_id, Kind.JOB_STARTED, tag=tag, job_id=f"{tag}-{name}", name=name)
            clock.advance(1800 if name == "bee" else 900)
            ledger.append(run_id, Kind.JOB_DONE, tag=tag, job_id=f"{tag}-{name}")
        ledger.append(run_id, Kind.GONE, tag=tag)
    receipt = make_receipt(ledger.run(run_id), clock.now())
    ledger.close()
    ant, bee = receipt.jobs
    assert (ant.name, bee.name) == ("ant", "bee")
    assert Usd.total([ant.setup, ant.training, bee.setup, bee.training]) == receipt.total
    assert abs(bee.training.micros - 2 * ant.training.micros) <= 2 and abs(ant.setup.micros - bee.setup.micros) <= 1
    told_rows = {row[0] for row in receipt.render_rows()}
    assert {"of which ant", "of which bee", "  set-up", "  training"} <= told_rows
    assert [one["name"] for one in receipt.to_dict()["jobs"]] == ["ant", "bee"]  # type: ignore[attr-defined]
