"""A sandbox that boots at once and learns nothing, unless a test is marked ``real_engine``; and a command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.session.world import Cli
from tests.stub.control import StubEngine

from gpurent_sandbox.server import Sandbox


@pytest.fixture
def sandbox(stub: StubEngine, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    real = request.node.get_closest_marker("real_engine") is not None
    with Sandbox(boot_s=0.2, seed=7, engine=() if real else stub.command) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, sandbox: Sandbox) -> Cli:
    return Cli(tmp_path, sandbox)
