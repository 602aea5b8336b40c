"""RunPod's own MCP server from npm, once for all runs in a folder that git does not see, before our look-alike."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from tests.adapters.alike import obeyed
from tests.runpod_official.mcp import McpServer

from gpurent_sandbox.runpod import RUNPOD
from gpurent_sandbox.server import Sandbox

PACKAGE, VERSION = "@runpod/mcp-server", "4.0.0"
OLDEST_NODE = 20


def _node() -> int:
    """Major version of node; 0 where there is none."""
    if shutil.which("node") is None:
        return 0
    said = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True, timeout=30).stdout
    return int(said.strip().lstrip("v").partition(".")[0])


@pytest.fixture(scope="session")
def program() -> Path:
    """The server's entry, downloaded if it is not there yet. Without node 20 or the registry the tests are skipped."""
    if not (shutil.which("npm") and _node() >= OLDEST_NODE):
        pytest.skip(f"node {OLDEST_NODE} or newer, with npm, is missing: https://nodejs.org/en/download")
    folder = Path(__file__).resolve().parents[2] / ".cache" / f"runpod-mcp-{VERSION}"
    entry = folder / "node_modules" / PACKAGE / "dist" / "stdio.mjs"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "complete").exists():
            done = subprocess.run(
                [
                    "npm",
                    "install",
                    "--no-audit",
                    "--no-fund",
                    "--ignore-scripts",
                    "--no-package-lock",
                    "--fetch-retry-mintimeout=1000",
                    "--fetch-retry-maxtimeout=5000",
                    "--fetch-timeout=60000",
                    "--prefix",
                    str(folder),
                    f"{PACKAGE}@{VERSION}",
                ],
                check=False,
                timeout=400,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr[-500:]}")
            (folder / "complete").touch()
    return entry


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(boot_s=0.2, seed=3) as running:
        yield running
        obeyed(running)
        assert running.truth() == []


@pytest.fixture(scope="module")
def server(program: Path, sandbox: Sandbox) -> Iterator[McpServer]:
    """It runs unchanged: nothing but its own environment variables lead it to the sandbox."""
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **RUNPOD.env(sandbox.address)}
    with McpServer(["node", str(program)], env, name="t", version="0") as started:
        yield started
