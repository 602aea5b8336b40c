"""The RunPod adapter keeps the contract of all adapters, before a look-alike that accepts RunPod's requests only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.runpod.harness import RunPodHarness

from gpurent.testing.conformance import ProviderConformance
from gpurent.testing.harness import ProviderHarness
from gpurent_sandbox.server import Sandbox


class TestRunPod(ProviderConformance):
    @pytest.fixture
    def harness(self, market: Sandbox) -> Iterator[ProviderHarness]:
        with closing(RunPodHarness(market)) as harness:
            yield harness
