"""Programs that import the sandbox from where it was before."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gpurent.sandbox.hosts as former
from gpurent.sandbox.address import SandboxAddress
from gpurent.sandbox.server import Sandbox
import gpurent_sandbox.hosts, gpurent_sandbox.server
assert former is gpurent_sandbox.hosts and Sandbox is gpurent_sandbox.server.Sandbox
address = SandboxAddress("http://127.0.0.1:1", "key", "control", 1)
assert address.vast_env()["VAST_API_KEY"] == address.runpod_env()["RUNPOD_API_KEY"] == "key"
"""


def test_they_get_the_same_modules_and_not_a_second_copy() -> None:
    """What they change in one is changed for the sandbox itself."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
