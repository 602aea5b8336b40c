"""gpurent's own suite before the fake: what every adapter has to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from fake_acme import KEY, OTHER_KEY, PAGE, Server
from gpurent_acme.provider import AcmeProvider

from gpurent.clock import SystemClock
from gpurent.http import Policy
from gpurent.spi import Provider
from gpurent.testing.conformance import ProviderConformance
from gpurent.testing.harness import Failure, HalfSuccess, ProviderHarness


class AcmeHarness:
    """One adapter before one fresh fake; retries are off, since the suite counts requests."""

    page_size = PAGE
    secrets = (KEY,)

    def __init__(self) -> None:
        self.server = Server()
        self.provider: Provider = self._open(KEY)

    def _open(self, key: str) -> Provider:
        return AcmeProvider(self.server.url, key, SystemClock(), policy=Policy(answer_s=0.3, attempts=1))

    def close(self) -> None:
        """End both."""
        self.provider.close()
        self.server.stop()

    def with_wrong_key(self) -> Provider:
        return self._open("wrong")

    def with_other_account(self) -> Provider:
        return self._open(OTHER_KEY)

    def machines(self) -> Mapping[str, str]:
        return {ref: str(one["label"]) for ref, one in self.server.state.machines.items()}

    def create_requests(self) -> int:
        return self.server.state.creates

    def requests(self) -> int:
        return self.server.state.requests

    def vanish(self, ref: str) -> None:
        del self.server.state.machines[ref]

    def fail_next(self, failure: Failure) -> None:
        self.server.state.next_failure = failure.value

    def fail_next_create(self, how: HalfSuccess) -> None:
        self.server.state.next_create = how.value

    def raise_next_price(self) -> None:
        self.server.state.dearer = True

    def spoil_offers(self) -> None:
        self.server.state.odd = True

    def boot(self) -> None:
        for one in self.server.state.machines.values():
            one |= {"state": "up", "host": "203.0.113.7", "port": 2201}


class TestAcme(ProviderConformance):
    @pytest.fixture
    def harness(self) -> Iterator[ProviderHarness]:
        made = AcmeHarness()
        yield made
        made.close()
