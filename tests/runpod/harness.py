"""The RunPod adapter before the look-alike, with the market as its back door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.adapters.alike import QUICK, AlikeHarness

from gpurent.http import Policy
from gpurent_providers.runpod.provider import RunPodProvider
from gpurent_sandbox.held import Held
from gpurent_sandbox.runpod import pods
from gpurent_sandbox.runpod.api import PAGE
from gpurent_sandbox.server import Sandbox


class RunPodHarness(AlikeHarness):
    """RunPod: its look-alike takes the market's ids without their prefix."""

    name = "runpod"
    page_size = PAGE
    create = ("POST", "/v2/pods")
    create_fault = "POST /v2/pods"
    wrong_key = "rpa_wrong"
    images: ClassVar[Mapping[str, str]] = {
        "official": "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
        "other": "pytorch/pytorch:2.7.1-cuda12.8",
    }

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        self.runpod = self.open(sandbox.account_key)

    def open(self, key: str, policy: Policy | None = None) -> RunPodProvider:
        return RunPodProvider(self.sandbox.url, key, self.clock, policy=policy or QUICK)

    def close(self) -> None:
        super().close()
        self.runpod.close()

    def ref(self, held: Held) -> str:
        return pods.pod_id(held)

    def market_id(self, ref: str) -> str:
        return pods.ref_of(ref)
