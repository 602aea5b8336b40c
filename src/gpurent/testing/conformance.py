"""The contract of ``gpurent.spi.Provider`` as tests. Subclass, supply a ``harness`` fixture, run pytest.

::

    class TestAcme(ProviderConformance):
        @pytest.fixture
        def harness(self) -> ProviderHarness:
            return AcmeHarness()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from gpurent.errors import (
    AuthFailed,
    BadReply,
    CreateFailed,
    OfferGone,
    ProviderError,
    RateLimited,
    Unavailable,
)
from gpurent.model import Instance, Launch, Need, Offer, Phase, squash
from gpurent.money import ZERO, Usd
from gpurent.spi import Provider, SupportsAccount, SupportsBalance, SupportsCharges, SupportsSelfDestruct
from gpurent.testing.harness import Failure, HalfSuccess, ProviderHarness

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f conformance"
NO_REF = "no-such-instance"
ANY = Need(disk_gb=10)

READ_FAILURES = [
    pytest.param(Failure.RATE_LIMIT, RateLimited, id="429"),
    pytest.param(Failure.SERVER_ERROR, Unavailable, id="500"),
    pytest.param(Failure.TIMEOUT, Unavailable, id="timeout"),
    pytest.param(Failure.RESET, Unavailable, id="reset"),
    pytest.param(Failure.GARBAGE, BadReply, id="garbage"),
]
READS: list[object] = [
    pytest.param(lambda provider: provider.offers(ANY), id="offers"),
    pytest.param(lambda provider: provider.instances(), id="instances"),
    pytest.param(lambda provider: provider.get(NO_REF), id="get"),
]


def launch(tag: str) -> Launch:
    """A small order."""
    return Launch(tag=tag, image="pytorch/pytorch:latest", disk_gb=10, public_key=PUBLIC_KEY, startup=":")


def rent(provider: Provider, tag: str, number: int = 0) -> tuple[Offer, Instance]:
    """Rent one of the offers."""
    offer = provider.offers(ANY)[number]
    return offer, provider.create(offer, launch(tag))


class ProviderConformance:
    """What every adapter does."""

    @pytest.fixture
    def harness(self) -> Iterator[ProviderHarness]:
        """The adapter's author returns a harness here."""
        raise pytest.UsageError(f"{type(self).__name__} must override the fixture `harness`")

    @pytest.fixture
    def provider(self, harness: ProviderHarness) -> Provider:
        """The adapter under test."""
        return harness.provider

    # Offers

    def test_offers_satisfy_the_need(self, provider: Provider) -> None:
        """Every offer accepted by the market fits VRAM, disk and hourly limit that were asked for."""
        need = Need(min_vram_mb=24_000, disk_gb=30, max_hourly=Usd.parse("0.50"))
        found = provider.offers(need)
        assert found
        assert [offer for offer in found if not need.accepts(offer)] == []

    def test_offers_have_prices_and_distinct_ids(self, provider: Provider) -> None:
        """An offer costs something, says whose it is and can be told from others."""
        found = provider.offers(ANY)
        assert all(offer.price.gpu_hour > ZERO and offer.provider == provider.name for offer in found)
        assert len({offer.id for offer in found}) == len(found) > 0

    def test_offers_are_empty_when_nothing_fits(self, provider: Provider) -> None:
        """A need that nothing meets is not an error."""
        assert list(provider.offers(Need(min_vram_mb=10**9))) == []

    def test_offers_leave_out_malformed_entries(self, harness: ProviderHarness, provider: Provider) -> None:
        """Broken entries are left out, strange ones are kept, and nothing is raised."""
        everything = {offer.id for offer in provider.offers(ANY)}
        harness.spoil_offers()
        assert set() < {offer.id for offer in provider.offers(ANY)} < everything

    def test_offers_change_nothing(self, harness: ProviderHarness, provider: Provider) -> None:
        """Asking rents nothing."""
        provider.offers(ANY)
        assert harness.machines() == {}
        assert harness.create_requests() == 0

    # Life

    def test_created_is_listed_with_its_tag(self, harness: ProviderHarness, provider: Provider) -> None:
        """The tag given to create comes back from create, get and instances, and is the truth at the service."""
        _, made = rent(provider, "tag-1")
        looked_up = provider.get(made.ref)
        assert looked_up is not None
        listed = [(instance.ref, instance.tag) for instance in provider.instances()]
        assert (made.tag, looked_up.tag, listed) == ("tag-1", "tag-1", [(made.ref, "tag-1")])
        assert harness.machines() == {made.ref: "tag-1"}

    def test_endpoint_comes_with_running(self, harness: ProviderHarness, provider: Provider) -> None:
        """A starting instance has no endpoint, a running one has."""
        _, made = rent(provider, "tag-1")
        assert made.phase is Phase.STARTING and made.endpoint is None
        harness.boot()
        running = provider.get(made.ref)
        assert running is not None
        assert running.phase is Phase.RUNNING and running.endpoint is not None

    def test_destroyed_is_absent(self, harness: ProviderHarness, provider: Provider) -> None:
        """After destroy an instance is in no listing, cannot be got and bills no more."""
        _, made = rent(provider, "tag-1")
        provider.destroy(made.ref)
        assert list(provider.instances()) == []
        assert provider.get(made.ref) is None
        assert harness.machines() == {}

    def test_unknown_ref_is_none(self, provider: Provider) -> None:
        """Looking up what never existed is an answer, not an error."""
        assert provider.get(NO_REF) is None

    def test_destroy_of_unknown_is_a_success(self, provider: Provider) -> None:
        """Destroying what never existed raises nothing."""
        provider.destroy(NO_REF)

    def test_destroy_twice_is_a_success(self, provider: Provider) -> None:
        """Destroying again raises nothing."""
        _, made = rent(provider, "tag-1")
        provider.destroy(made.ref)
        provider.destroy(made.ref)

    def test_vanished_is_gone_and_can_be_destroyed(self, harness: ProviderHarness, provider: Provider) -> None:
        """A machine that its owner unplugged is none, unlisted, and destroying it is a success."""
        _, made = rent(provider, "tag-1")
        harness.vanish(made.ref)
        assert provider.get(made.ref) is None
        assert list(provider.instances()) == []
        provider.destroy(made.ref)

    def test_destroy_touches_nothing_else(self, harness: ProviderHarness, provider: Provider) -> None:
        """Two rentals have two refs, and the end of one leaves the other alone."""
        _, first = rent(provider, "tag-1")
        _, second = rent(provider, "tag-2")
        provider.destroy(first.ref)
        assert harness.machines() == {second.ref: "tag-2"}

    def test_listing_is_complete_over_all_pages(self, harness: ProviderHarness, provider: Provider) -> None:
        """One instance more than a page holds is listed too."""
        offers = provider.offers(ANY)[: harness.page_size + 1]
        assert len(offers) == harness.page_size + 1
        made = {provider.create(offer, launch(f"tag-{n}")).ref for n, offer in enumerate(offers)}
        assert {instance.ref for instance in provider.instances()} == made

    def test_price_of_an_instance_is_that_of_its_offer(self, provider: Provider) -> None:
        """What was offered is what the instance reports."""
        offer, made = rent(provider, "tag-1")
        assert made.price == offer.price

    def test_gpu_of_an_instance_is_spelled_like_its_offer_s(self, provider: Provider) -> None:
        """Where it is told: another name is taken for another GPU, and the machine is given back."""
        offer, made = rent(provider, "tag-1")
        shown = next(one for one in provider.instances() if one.ref == made.ref)
        assert {squash(one.gpu) for one in (made, shown)} <= {"", squash(offer.gpu)}
        assert {one.region for one in (made, shown)} <= {"", offer.region}

    def test_dearer_price_is_reported(self, harness: ProviderHarness, provider: Provider) -> None:
        """An instance that costs more than its offer says so."""
        harness.raise_next_price()
        offer, made = rent(provider, "tag-1")
        assert made.price.gpu_hour > offer.price.gpu_hour

    def test_taken_offer_is_gone(self, harness: ProviderHarness, provider: Provider) -> None:
        """An offer that somebody took raises OfferGone, and nothing more was made."""
        offer, made = rent(provider, "tag-1")
        with pytest.raises(OfferGone):
            provider.create(offer, launch("tag-2"))
        assert harness.machines() == {made.ref: "tag-1"}

    # Half success

    @pytest.mark.parametrize("how", list(HalfSuccess))
    def test_half_made_is_named_or_found(self, harness: ProviderHarness, provider: Provider, how: HalfSuccess) -> None:
        """A create that fails after renting raises CreateFailed; the ref is in it, or the tag finds the one machine."""
        offer = provider.offers(ANY)[0]
        harness.fail_next_create(how)
        with pytest.raises(CreateFailed) as caught:
            provider.create(offer, launch("tag-1"))
        found = {instance.ref for instance in provider.instances() if instance.tag == "tag-1"}
        assert found == set(harness.machines())
        assert len(found) == 1
        assert caught.value.ref is None or {caught.value.ref} == found

    @pytest.mark.parametrize("failure", [Failure.SERVER_ERROR, Failure.TIMEOUT, Failure.RESET, Failure.GARBAGE])
    def test_create_is_sent_once_whatever_happens(
        self, harness: ProviderHarness, provider: Provider, failure: Failure
    ) -> None:
        """An unclear answer to create is CreateFailed, after exactly one request."""
        offer = provider.offers(ANY)[0]
        harness.fail_next(failure)
        with pytest.raises(CreateFailed):
            provider.create(offer, launch("tag-1"))
        assert harness.create_requests() == 1

    # Errors

    @pytest.mark.parametrize("read", READS)
    @pytest.mark.parametrize(("failure", "expected"), READ_FAILURES)
    def test_failed_read_has_the_right_class(
        self,
        harness: ProviderHarness,
        provider: Provider,
        failure: Failure,
        expected: type[ProviderError],
        read: Callable[[Provider], object],
    ) -> None:
        """A read that fails raises what its failure means, after one request; it is never an empty answer."""
        before = harness.requests()
        harness.fail_next(failure)
        with pytest.raises(expected):
            read(provider)
        assert harness.requests() == before + 1

    @pytest.mark.parametrize("read", READS)
    def test_wrong_key_is_auth_failed(self, harness: ProviderHarness, read: Callable[[Provider], object]) -> None:
        """A refused key is AuthFailed."""
        with closing(harness.with_wrong_key()) as provider, pytest.raises(AuthFailed):
            read(provider)

    def test_create_with_a_wrong_key_is_auth_failed(self, harness: ProviderHarness, provider: Provider) -> None:
        """A refused key at create is AuthFailed: nothing was made."""
        offer = provider.offers(ANY)[0]
        with closing(harness.with_wrong_key()) as wrong, pytest.raises(AuthFailed):
            wrong.create(offer, launch("tag-1"))
        assert harness.machines() == {}

    def test_rate_limit_says_how_long(self, harness: ProviderHarness, provider: Provider) -> None:
        """The service's Retry-After reaches the caller, from reads and from create."""
        offer = provider.offers(ANY)[0]
        for act in (provider.instances, lambda: provider.create(offer, launch("tag-1"))):
            harness.fail_next(Failure.RATE_LIMIT)
            with pytest.raises(RateLimited) as caught:
                act()
            assert caught.value.retry_after == 7
        assert harness.machines() == {}

    @pytest.mark.parametrize(
        "failure", [Failure.RATE_LIMIT, Failure.SERVER_ERROR, Failure.TIMEOUT, Failure.RESET]
    )  # fmt: skip
    def test_failed_destroy_is_not_a_success(
        self, harness: ProviderHarness, provider: Provider, failure: Failure
    ) -> None:
        """A destroy that was not carried out raises a transient error, and destroying again works."""
        _, made = rent(provider, "tag-1")
        harness.fail_next(failure)
        with pytest.raises(ProviderError) as caught:
            provider.destroy(made.ref)
        assert caught.value.transient
        provider.destroy(made.ref)
        assert harness.machines() == {}

    # Manners

    def test_close_twice(self, provider: Provider) -> None:
        """Closing again raises nothing."""
        provider.close()
        provider.close()

    def test_secrets_never_show(
        self, harness: ProviderHarness, provider: Provider, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No repr, error or log line holds a key, whatever fails."""
        shown = [repr(provider), str(provider)]
        with caplog.at_level(logging.DEBUG):
            offer, _ = rent(provider, "tag-1")
            for failure in Failure:
                harness.fail_next(failure)
                with pytest.raises(ProviderError) as caught:
                    provider.create(offer, launch("tag-2"))
                chain: BaseException | None = caught.value
                while chain is not None:
                    shown += [str(chain), repr(chain), repr(vars(chain))]
                    chain = chain.__cause__
        shown.append(caplog.text)
        assert harness.secrets
        assert [text for text in shown for secret in harness.secrets if secret in text] == []

    def test_threads_do_not_disturb_each_other(self, provider: Provider) -> None:
        """Listings asked for from several threads at once all answer the same."""
        rent(provider, "tag-1")
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: len(provider.instances()), range(16)))
        assert answers == [1] * 16

    # Optional powers: a provider that lacks one has nothing to prove here

    def test_account_is_told_and_is_no_secret(self, provider: Provider, harness: ProviderHarness) -> None:
        """The id is the same every time, is not empty and holds no key."""
        if not isinstance(provider, SupportsAccount):
            return
        told = provider.account()
        assert told and told == provider.account()
        assert [secret for secret in harness.secrets if secret in told or told in secret] == []

    def test_another_account_is_another_and_sees_nothing(self, harness: ProviderHarness, provider: Provider) -> None:
        """A key of another account tells another id, lists none of our machines, and cannot end them."""
        opened = harness.with_other_account()
        if not isinstance(provider, SupportsAccount) or opened is None:
            return
        _, made = rent(provider, "tag-1")
        with closing(opened):
            other: object = opened
            assert isinstance(other, SupportsAccount)
            assert other.account() != provider.account()
            assert list(opened.instances()) == [] and opened.get(made.ref) is None
            opened.destroy(made.ref)
        assert [one.ref for one in provider.instances()] == [made.ref]

    def test_balance_shrinks_by_what_is_billed(self, provider: Provider) -> None:
        """Credit is positive and does not grow by renting."""
        if not isinstance(provider, SupportsBalance):
            return
        before = provider.balance()
        rent(provider, "tag-1")
        assert ZERO < provider.balance() <= before

    def test_charges_are_known_after_the_end(self, provider: Provider) -> None:
        """What was billed once an instance is gone is final, or says how far it reaches; an unknown one is none."""
        if not isinstance(provider, SupportsCharges):
            return
        _, made = rent(provider, "tag-1")
        provider.destroy(made.ref)
        bill = provider.charges(made.ref)
        assert bill is None or bill.final or bill.until is not None
        assert provider.charges(NO_REF) is None

    def test_self_destruct_holds_no_account_key(self, harness: ProviderHarness, provider: Provider) -> None:
        """What goes to the host names variables of the host, and no secret of the account."""
        if not isinstance(provider, SupportsSelfDestruct):
            return
        request = provider.self_destruct()
        text = repr(request)
        assert request.url.startswith(("http", "{"))
        assert [secret for secret in harness.secrets if secret in text] == []
