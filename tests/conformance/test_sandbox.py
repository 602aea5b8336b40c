"""The sandbox adapter keeps the contract of all adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.conformance.sandbox_harness import SandboxHarness

from gpurent.testing.conformance import ProviderConformance
from gpurent.testing.harness import ProviderHarness
from gpurent_sandbox.server import Sandbox


class TestSandbox(ProviderConformance):
    @pytest.fixture
    def harness(self, market: Sandbox) -> Iterator[ProviderHarness]:
        with closing(SandboxHarness(market)) as harness:
            yield harness
