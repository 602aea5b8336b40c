"""The Vast.ai adapter before the look-alike, with the market as its back door."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from tests.adapters.alike import QUICK, AlikeHarness

from gpurent.http import Policy
from gpurent_providers.vastai.provider import VastProvider
from gpurent_sandbox.catalogue import Machine, default_machines
from gpurent_sandbox.held import Held
from gpurent_sandbox.server import Sandbox
from gpurent_sandbox.vast import instances
from gpurent_sandbox.vast.instance_calls import PAGE


def machines(count: int = PAGE + 2) -> list[Machine]:
    """Enough machines with one GPU, a good host and a public address to fill more than a page."""
    good = [one for one in default_machines(random.Random(1)) if one.gpu_count == 1 and one.reliability >= 0.955]
    return [replace(good[number % len(good)], id=f"v{number:03d}", open_ports=True) for number in range(count)]


class VastHarness(AlikeHarness):
    """Vast.ai: its look-alike numbers what the market names."""

    name = "vastai"
    page_size = PAGE
    create = ("PUT", r"/api/v0/asks/\d+/")
    create_fault = "PUT /api/v0/asks/"
    wrong_key = "f" * 64
    images: ClassVar[Mapping[str, str]] = {"any": "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"}

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        self.vast = self.open(sandbox.account_key)

    def open(self, key: str, policy: Policy | None = None, *, unverified: bool = False) -> VastProvider:
        return VastProvider(self.sandbox.url, key, self.clock, policy=policy or QUICK, unverified=unverified)

    def close(self) -> None:
        super().close()
        self.vast.close()

    def ref(self, held: Held) -> str:
        return str(instances.number(held))

    def market_id(self, ref: str) -> str:
        return instances.ref_of(ref)
