"""Adapters that are each wrong in one way; ``test_wrong_adapters.py`` runs the suite on them in its own process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import ClassVar

import pytest
from tests.conformance.sandbox_harness import SandboxHarness

from gpurent.errors import BadReply, CreateFailed
from gpurent.model import Instance, Launch, Offer
from gpurent.testing.conformance import ProviderConformance
from gpurent.testing.harness import ProviderHarness
from gpurent_sandbox.adapter import wire
from gpurent_sandbox.adapter.provider import SandboxProvider
from gpurent_sandbox.server import Sandbox


class LosesTheTag(SandboxProvider):
    def instances(self) -> Sequence[Instance]:
        return [replace(instance, tag="") for instance in super().instances()]


class ReadsOnePage(SandboxProvider):
    def instances(self) -> Sequence[Instance]:
        items, _ = wire.page(self._api.read("/v1/instances").json(), "instances")
        return [wire.instance(item) for item in items]


class RetriesCreate(SandboxProvider):
    def create(self, offer: Offer, launch: Launch) -> Instance:
        try:
            return super().create(offer, launch)
        except CreateFailed:
            return super().create(offer, launch)


class RaisesOnUnknown(SandboxProvider):
    def destroy(self, ref: str) -> None:
        self._api.destroy(f"/v1/instances/{ref}", accept=(200, 202))


class LeaksTheKey(SandboxProvider):
    def __repr__(self) -> str:
        return f"LeaksTheKey({self._api._headers['Authorization']!r})"


class HidesFailedListings(SandboxProvider):
    def instances(self) -> Sequence[Instance]:
        try:
            return super().instances()
        except BadReply:
            return []


class RenamesTheGpu(SandboxProvider):
    def instances(self) -> Sequence[Instance]:
        return [replace(instance, gpu=f"NVIDIA {instance.gpu}") for instance in super().instances()]


class _Wrong(ProviderConformance):
    adapter: ClassVar[type[SandboxProvider]]

    @pytest.fixture
    def harness(self, market: Sandbox) -> Iterator[ProviderHarness]:
        with closing(SandboxHarness(market, self.adapter)) as harness:
            yield harness


class TestLosesTheTag(_Wrong):
    adapter = LosesTheTag


class TestReadsOnePage(_Wrong):
    adapter = ReadsOnePage


class TestRenamesTheGpu(_Wrong):
    adapter = RenamesTheGpu


class TestRetriesCreate(_Wrong):
    adapter = RetriesCreate


class TestRaisesOnUnknown(_Wrong):
    adapter = RaisesOnUnknown


class TestLeaksTheKey(_Wrong):
    adapter = LeaksTheKey


class TestHidesFailedListings(_Wrong):
    adapter = HidesFailedListings
