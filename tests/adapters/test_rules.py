"""A test that breaks a service's rules fails, without doing anything for it."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tests.conftest import RuleBook
from tests.runpod.harness import RunPodHarness
from tests.session.world import Cli, wait_for

from gpurent.clock import SystemClock
from gpurent.testing.conformance import ANY, launch
from gpurent_providers.runpod.provider import RunPodProvider
from gpurent_sandbox.address import discover
from gpurent_sandbox.runpod import RUNPOD, pods
from gpurent_sandbox.server import Sandbox


def test_every_broken_rule_fails_its_test(repository: Path) -> None:
    """Shared and ad-hoc sandboxes, requests of other processes; those of other clients and intended ones do not."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rE"]
    ran = subprocess.run(
        [*command, "tests/adapters/rule_breakers.py"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    caught = sorted(re.findall(r"^ERROR \S+::(\S+)", ran.stdout, re.MULTILINE))
    assert caught == [
        "test_ours_is_caught[/api/v0/nowhere/]",
        "test_ours_is_caught[/v2/nowhere]",
        "test_that_of_an_ad_hoc_sandbox_is_caught",
        "test_that_of_another_process_is_caught",
    ], ran.stdout + ran.stderr


@pytest.mark.breaks_rules
def test_a_sandbox_in_a_process_of_its_own_tells_as_well(tmp_path: Path, rule_book: RuleBook) -> None:
    """``gpurent sandbox up`` writes into the same file."""
    with Sandbox(seed=1) as other:
        cli = Cli(tmp_path, other, RUNPOD.env)
        box = tmp_path / "state" / "sandbox"
        started = cli.start("sandbox", "up")
        try:
            wait_for(lambda: discover(box) is not None, "the start", 30)
            address = discover(box)
            assert address is not None
            with closing(RunPodProvider(address.url, address.account_key, SystemClock())) as api:
                api._api.read("/v2/nowhere", accept=(404,))
        finally:
            started.terminate()
            started.communicate()
    assert rule_book.news() == ["GET /v2/nowhere: no path /v2/nowhere"]


@pytest.mark.breaks_rules
def test_a_look_alike_that_answers_what_its_document_does_not_allow_is_caught(
    rule_book: RuleBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RunPod's document judges our replies as it judges requests, no matter who asks."""
    true = pods.pod_json
    monkeypatch.setattr(pods, "pod_json", lambda held, now: {**true(held, now), "cost": "free"})
    with Sandbox(seed=1) as sandbox, closing(RunPodHarness(sandbox)) as harness:
        harness.runpod.create(harness.runpod.offers(ANY)[0], launch("tag-1"))
        headers = {"Authorization": f"Bearer {sandbox.account_key}", "user-agent": "somebody/1"}
        assert httpx.get(f"{sandbox.url}/v2/pods", headers=headers).status_code == 200
    broken = rule_book.news()
    assert [one.partition(": ")[0] for one in broken] == ["POST /v2/pods", "GET /v2/pods"]
    assert all("own reply" in one and "cost" in one for one in broken)
