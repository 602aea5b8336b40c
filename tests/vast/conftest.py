"""One look-alike for all tests of a module; each leaves it empty, and no request of ours breaks Vast.ai's rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.adapters.alike import obeyed
from tests.vast.harness import VastHarness, machines

from gpurent_sandbox.server import Sandbox


@pytest.fixture(scope="module")
def market() -> Iterator[Sandbox]:
    with Sandbox(boot_s=1.0, seed=1, machines=machines()) as sandbox:
        yield sandbox
        obeyed(sandbox)


@pytest.fixture
def harness(market: Sandbox) -> Iterator[VastHarness]:
    with closing(VastHarness(market)) as made:
        yield made
