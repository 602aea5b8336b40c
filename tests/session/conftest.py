"""A sandbox that boots at once, and a command line that points at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.session.world import Cli

from gpurent.sandbox.server import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(boot_s=0.2, seed=7) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, sandbox: Sandbox) -> Cli:
    return Cli(tmp_path, sandbox)
