"""RunPod's own MCP server from npm, once for all runs in a folder that git does not see, before our look-alike."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from tests.adapters.alike import obeyed
from tests.runpod_official.mcp import McpServer

from gpurent.sandbox.server import Sandbox

PACKAGE, VERSION = "@runpod/mcp-server", "4.0.0"


@pytest.fixture(scope="session")
def program() -> Path:
    """The server's entry, downloaded if it is not there yet."""
    folder = Path(__file__).resolve().parents[2] / ".cache" / f"runpod-mcp-{VERSION}"
    entry = folder / "node_modules" / PACKAGE / "dist" / "stdio.mjs"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "complete").exists():
            subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock",
                 "--prefix", str(folder), f"{PACKAGE}@{VERSION}"],
                check=True, timeout=240,
            )  # fmt: skip
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
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **sandbox.address.runpod_env()}
    with McpServer(["node", str(program)], env, name="t", version="0") as started:
        yield started
