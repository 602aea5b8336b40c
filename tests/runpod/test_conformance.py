"""The RunPod adapter keeps the contract of all adapters, before a look-alike that accepts RunPod's requests only."""

from __future__ import annotations

from gpurent.testing.conformance import ProviderConformance


class TestRunPod(ProviderConformance):
    """``harness`` comes from the folder's conftest."""
