"""Requests that break rules; ``test_rules.py`` runs them in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from gpurent_sandbox.server import Sandbox

ASK = """
import httpx, sys
httpx.get(sys.argv[1] + "/v2/nowhere", headers={"user-agent": sys.argv[2]})
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(seed=1) as running:
        yield running


@pytest.mark.parametrize("path", ["/v2/nowhere", "/api/v0/nowhere/"])
def test_ours_is_caught(sandbox: Sandbox, path: str) -> None:
    httpx.get(f"{sandbox.url}{path}", headers={"user-agent": "gpurent/0.1"})


def test_that_of_an_ad_hoc_sandbox_is_caught() -> None:
    with Sandbox(seed=1) as running:
        httpx.get(f"{running.url}/v2/nowhere", headers={"user-agent": "gpurent-deadman/1"})


def test_that_of_another_process_is_caught(sandbox: Sandbox) -> None:
    subprocess.run([sys.executable, "-c", ASK, sandbox.url, "gpurent/0.1"], check=True)


def test_somebody_else_s_is_not(sandbox: Sandbox) -> None:
    httpx.get(f"{sandbox.url}/v2/nowhere", headers={"user-agent": "python-httpx/0"})


@pytest.mark.breaks_rules
def test_one_that_is_meant_is_not(sandbox: Sandbox) -> None:
    httpx.get(f"{sandbox.url}/v2/nowhere", headers={"user-agent": "gpurent/0.1"})
