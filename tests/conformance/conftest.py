"""One sandbox for all conformance tests of a module; each test leaves it empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.sandbox_harness import BOOT_S

from gpurent_sandbox.server import Sandbox


@pytest.fixture(scope="module")
def market() -> Iterator[Sandbox]:
    with Sandbox(boot_s=BOOT_S, seed=1) as sandbox:
        yield sandbox
