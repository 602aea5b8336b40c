"""``gpurent doctor --report``: facts for those who maintain gpurent, and nothing about who sends them."""

from __future__ import annotations

import json

from tests.session.test_images import best
from tests.session.world import Cli, make_job

from gpurent.budget.events import Kind
from gpurent_sandbox.images import Trait
from gpurent_sandbox.server import Sandbox


def test_a_report_tells_what_services_show_and_why_machines_failed(cli: Cli, sandbox: Sandbox) -> None:
    """Counts of offers and of what they tell; the trait by which a machine failed; what was billed."""
    make_job(cli.folder)
    sandbox.furnish(best(cli), traits=[Trait.NO_CUDA])
    assert cli.run("train", "--budget", "1", "--yes").returncode == 0
    told = json.loads(cli.run("doctor", "--report").stdout)
    service = told["services"]["sandbox"]
    assert service["offers"] == service["tell"]["capability"] > 0 and service["unknown_gpus"] == 0
    (run,) = told["runs"]
    assert run["outcome"] == "done" and run["play_money"] and run["files"] == 1
    assert [one["failed_by"] for one in run["rentals"]] == ["no_gpu", ""]
    assert [one["trained"] for one in run["rentals"]] == [False, True]


def test_a_report_holds_no_key_name_or_path(cli: Cli, sandbox: Sandbox) -> None:
    """Whatever the job and its folder are called, and no matter who rents."""
    make_job(cli.folder)
    assert cli.run("train", "--budget", "1", "--yes").returncode == 0
    text = cli.run("doctor", "--report").stdout
    tags = {str(one.tag) for one in cli.events() if one.kind is Kind.CREATED}
    for secret in (sandbox.account_key, "swatch", str(cli.folder), "127.0.0.1", *tags):
        assert secret not in text, secret
