"""The Vast.ai adapter keeps the contract of all adapters, before a look-alike that accepts Vast.ai's requests only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.vast.harness import VastHarness

from gpurent.testing.conformance import ProviderConformance
from gpurent.testing.harness import ProviderHarness
from gpurent_sandbox.server import Sandbox


class TestVast(ProviderConformance):
    @pytest.fixture
    def harness(self, market: Sandbox) -> Iterator[ProviderHarness]:
        with closing(VastHarness(market)) as harness:
            yield harness
