"""An adapter before the look-alike of its service, with the market as its back door."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from tests.conformance.sandbox_harness import FAULTS

from gpurent.clock import Clock, SystemClock, Uptime
from gpurent.http import Policy
from gpurent.spi import Provider
from gpurent.testing.harness import Failure, HalfSuccess
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import Held, State
from gpurent_sandbox.server import Sandbox

QUICK = Policy(connect_s=2.0, answer_s=3.0, attempts=1)


class LaterClock(SystemClock):
    """The machine's clock, ``ahead`` seconds later. Its uptime runs ``pace`` times as fast as it does."""

    ahead = 0.0
    pace = 1.0

    def now(self) -> float:
        return super().now() + self.ahead

    def uptime(self) -> Uptime:
        up = super().uptime()
        return Uptime(up.boot, up.seconds * self.pace)


def obeyed(sandbox: Sandbox) -> None:
    """Every request that the look-alike has seen was one that its service's documents allow."""
    assert [(one.method, one.path, one.violations) for one in sandbox.journal.entries() if one.violations] == []


class AlikeHarness(ABC):
    """One adapter before one (shared, emptied) sandbox."""

    name: str
    page_size: int
    create: tuple[str, str]
    """Method and path (a regular expression) of the request that rents."""
    create_fault: str
    """What narrows a fault to that request."""
    wrong_key: str
    images: ClassVar[Mapping[str, str]]

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        sandbox.faults.clear()
        self._seen = len(sandbox.journal.entries())
        self.later = LaterClock()
        self.clock: Clock = self.later
        self.provider: Provider = self.open(sandbox.account_key)
        self.secrets = (sandbox.account_key, sandbox.control_key)

    @abstractmethod
    def open(self, key: str, policy: Policy | None = None) -> Provider:
        """The adapter with another key or patience."""

    @abstractmethod
    def ref(self, held: Held) -> str:
        """The service's name of an instance."""

    @abstractmethod
    def market_id(self, ref: str) -> str:
        """The market's name of it."""

    def close(self) -> None:
        self.sandbox.faults.clear()
        for held in self.sandbox.market.alive():
            self.sandbox.market.vanish(held.id)
        self.provider.close()

    def with_wrong_key(self) -> Provider:
        return self.open(self.wrong_key)

    def with_other_account(self) -> Provider:
        return self.open(self.sandbox.other_account_key)

    def machines(self) -> Mapping[str, str]:
        return {self.ref(held): held.order.label for held in self.sandbox.market.alive()}

    def create_requests(self) -> int:
        method, path = self.create
        asked = self.sandbox.journal.entries()[self._seen :]
        return sum(1 for entry in asked if entry.method == method and re.fullmatch(path, entry.path))

    def requests(self) -> int:
        return len(self.sandbox.journal.entries())

    def vanish(self, ref: str) -> None:
        self.sandbox.market.vanish(self.market_id(ref))

    def fail_next(self, failure: Failure) -> None:
        value = 7.0 if failure is Failure.RATE_LIMIT else None
        self.sandbox.faults.set(FAULTS[failure], value=value)

    def fail_next_create(self, how: HalfSuccess) -> None:
        fault = Fault.CREATE_REPLY_LOST if how is HalfSuccess.REPLY_LOST else Fault.CREATE_ERROR_BUT_CREATED
        self.sandbox.faults.set(fault)

    def raise_next_price(self) -> None:
        self.sandbox.faults.set(Fault.WRONG_PRICE, value=50)

    def spoil_offers(self) -> None:
        self.sandbox.faults.set(Fault.ODD_OFFERS, times=5)

    def boot(self) -> None:
        market = self.sandbox.market
        while any(held.state(market.now()) is not State.RUNNING for held in market.alive()):
            time.sleep(0.02)
