"""Own machines pass the suite of all adapters. Where they differ, the tests say what holds instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.sshhost.harness import SshHarness
from tests.sshhost.machine import Machine

from gpurent.errors import AuthFailed, BadReply, CreateFailed, OfferGone, ProviderError, Unavailable
from gpurent.spi import Provider
from gpurent.testing.conformance import ANY, ProviderConformance, launch, rent
from gpurent.testing.harness import Failure

REAL = [Failure.SERVER_ERROR, Failure.TIMEOUT, Failure.RESET, Failure.GARBAGE]


class TestSshHosts(ProviderConformance):
    @pytest.fixture
    def harness(self, machines: list[Machine], listed: Path) -> SshHarness:
        return SshHarness(machines, listed)

    def test_dearer_price_is_reported(self, harness: SshHarness, provider: Provider) -> None:  # type: ignore[override]
        """The price is what the user wrote: one that is changed after the offer is reported."""
        offer = provider.offers(ANY)[0]
        harness.raise_next_price()
        assert provider.create(offer, launch("tag-1")).price.gpu_hour > offer.price.gpu_hour

    @pytest.mark.parametrize("failure", REAL)
    def test_create_is_sent_once_whatever_happens(  # type: ignore[override]
        self, harness: SshHarness, provider: Provider, failure: Failure
    ) -> None:
        """One that cannot be looked at is no offer; one that fails while it is taken is CreateFailed, by its ref."""
        offer = provider.offers(ANY)[0]
        harness.fail_next(failure)
        with pytest.raises(OfferGone):
            provider.create(offer, launch("tag-1"))
        assert harness.machines() == {}
        before = harness.requests()
        harness.fail_taking(failure)
        with pytest.raises(CreateFailed) as caught:
            provider.create(offer, launch("tag-1"))
        assert caught.value.ref == f"{offer.id}/tag-1"
        assert harness.requests() == before + 2

    @pytest.mark.parametrize("failure", REAL)
    def test_failed_read_has_the_right_class(  # type: ignore[override]
        self, harness: SshHarness, provider: Provider, failure: Failure
    ) -> None:
        """A machine that fails is no offer; a listing without it is never returned, nor does it count as gone."""
        _, made = rent(provider, "tag-1")
        expected = BadReply if failure is Failure.GARBAGE else Unavailable
        for read in (provider.instances, lambda: provider.get(made.ref)):
            harness.fail_next(failure)
            with pytest.raises(expected):
                read()
            harness.fail_next(failure)
        assert list(provider.offers(ANY)) == []

    @pytest.mark.parametrize("read", ["offers", "instances", "get"])
    def test_wrong_key_is_auth_failed(self, harness: SshHarness, read: str) -> None:  # type: ignore[override]
        """A refused key is AuthFailed."""
        wrong = harness.with_wrong_key()
        ask: dict[str, Callable[[], object]] = {
            "offers": lambda: wrong.offers(ANY),
            "instances": wrong.instances,
            "get": lambda: wrong.get("box0/tag"),
        }
        with pytest.raises(AuthFailed):
            ask[read]()

    def test_rate_limit_says_how_long(self) -> None:  # type: ignore[override]
        """Nobody limits how often you log in to your own machine; what would is a refused connection: Unavailable."""

    @pytest.mark.parametrize("failure", REAL)
    def test_failed_destroy_is_not_a_success(  # type: ignore[override]
        self, harness: SshHarness, provider: Provider, failure: Failure
    ) -> None:
        """A destroy that was not carried out raises, and destroying again works."""
        _, made = rent(provider, "tag-1")
        harness.fail_next(failure)
        with pytest.raises(ProviderError):
            provider.destroy(made.ref)
        provider.destroy(made.ref)
        assert harness.machines() == {}
