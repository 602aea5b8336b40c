"""The sandbox behind the conformance suite's back door."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gpurent.clock import SystemClock
from gpurent.http import Policy
from gpurent.spi import Provider
from gpurent.testing.harness import Failure, HalfSuccess
from gpurent_sandbox.adapter.provider import SandboxProvider
from gpurent_sandbox.api import PAGE
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import State
from gpurent_sandbox.server import Sandbox

BOOT_S = 0.2

FAULTS = {
    Failure.RATE_LIMIT: Fault.HTTP_429,
    Failure.SERVER_ERROR: Fault.HTTP_500,
    Failure.TIMEOUT: Fault.HTTP_TIMEOUT,
    Failure.RESET: Fault.HTTP_RESET,
    Failure.GARBAGE: Fault.GARBAGE_REPLY,
}


class SandboxHarness:
    """One adapter before one (shared, emptied) sandbox."""

    page_size = PAGE

    def __init__(self, sandbox: Sandbox, adapter: type[SandboxProvider] = SandboxProvider) -> None:
        self._sandbox = sandbox
        self._adapter = adapter
        sandbox.faults.clear()
        self._seen = len(sandbox.journal.entries())
        self.provider: Provider = self._open(sandbox.account_key)
        self.secrets = (sandbox.account_key, sandbox.control_key)

    def _open(self, key: str) -> Provider:
        policy = Policy(connect_s=2.0, answer_s=1.5, attempts=1)
        return self._adapter(self._sandbox.url, key, SystemClock(), policy=policy)

    def close(self) -> None:
        """Leave the sandbox empty."""
        self._sandbox.faults.clear()
        for held in self._sandbox.market.alive():
            self._sandbox.market.vanish(held.id)
        self.provider.close()

    def with_wrong_key(self) -> Provider:
        return self._open("sbxa_wrong")

    def with_other_account(self) -> Provider:
        return self._open(self._sandbox.other_account_key)

    def machines(self) -> Mapping[str, str]:
        return {held.id: held.order.label for held in self._sandbox.market.alive()}

    def create_requests(self) -> int:
        return sum(1 for entry in self._sandbox.journal.entries()[self._seen :] if entry.method == "POST")

    def requests(self) -> int:
        return len(self._sandbox.journal.entries())

    def vanish(self, ref: str) -> None:
        self._sandbox.market.vanish(ref)

    def fail_next(self, failure: Failure) -> None:
        value = 7.0 if failure is Failure.RATE_LIMIT else None
        self._sandbox.faults.set(FAULTS[failure], value=value)

    def fail_next_create(self, how: HalfSuccess) -> None:
        fault = Fault.CREATE_REPLY_LOST if how is HalfSuccess.REPLY_LOST else Fault.CREATE_ERROR_BUT_CREATED
        self._sandbox.faults.set(fault)

    def raise_next_price(self) -> None:
        self._sandbox.faults.set(Fault.WRONG_PRICE, value=50)

    def spoil_offers(self) -> None:
        self._sandbox.faults.set(Fault.ODD_OFFERS, times=5)

    def boot(self) -> None:
        market = self._sandbox.market
        while any(held.state(market.now()) is not State.RUNNING for held in market.alive()):
            time.sleep(0.02)
