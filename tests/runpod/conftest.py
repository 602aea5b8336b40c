"""One look-alike for all tests of a module; each leaves it empty, and no request of ours breaks RunPod's document."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.adapters.alike import obeyed
from tests.conformance.sandbox_harness import BOOT_S
from tests.runpod.harness import RunPodHarness

from gpurent_sandbox.server import Sandbox


@pytest.fixture(scope="module")
def market() -> Iterator[Sandbox]:
    with Sandbox(boot_s=BOOT_S, seed=1) as sandbox:
        yield sandbox
        obeyed(sandbox)


@pytest.fixture
def harness(market: Sandbox) -> Iterator[RunPodHarness]:
    with closing(RunPodHarness(market)) as made:
        yield made
