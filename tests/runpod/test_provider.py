"""What the adapter makes of the look-alike's answers: the right error, the right request, and no more of either."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.runpod.harness import RunPodHarness
from tests.session.world import wait_for

from gpurent.clock import ManualClock, SystemClock
from gpurent.errors import (
    AuthFailed,
    BadReply,
    ConfigError,
    CreateFailed,
    MissingCredentials,
    NoCapacity,
    OfferGone,
    ProviderError,
    Unavailable,
)
from gpurent.http import Policy
from gpurent.model import Instance, Need, Offer, Phase
from gpurent.money import Usd
from gpurent.testing.conformance import ANY, launch
from gpurent_providers.runpod import PLUGIN, keyfile
from gpurent_providers.runpod.provider import RunPodProvider
from gpurent_providers.runpod.wire import Place
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.runpod.faults import RunPodFault
from gpurent_sandbox.server import Sandbox


def rent(harness: RunPodHarness, tag: str = "tag-1", number: int = 0) -> tuple[Offer, Instance]:
    offer = harness.runpod.offers(ANY)[number]
    return offer, harness.runpod.create(offer, launch(tag))


# Offers


def test_both_clouds_are_offered_unless_only_trusted_ones_are_wanted(harness: RunPodHarness) -> None:
    """Two requests list everything; with trusted_only the community is not even asked."""
    assert {offer.trusted for offer in harness.runpod.offers(ANY)} == {True, False}
    before = harness.requests()
    assert {offer.trusted for offer in harness.runpod.offers(Need(disk_gb=10, trusted_only=True))} == {True}
    assert harness.requests() == before + 1


def test_every_offer_can_be_rented_as_it_is_described(harness: RunPodHarness) -> None:
    """Cloud, data centre, GPU and price of a pod are those of its offer."""
    for number, offer in enumerate(harness.runpod.offers(ANY)[:4]):
        made = harness.runpod.create(offer, launch(f"tag-{number}"))
        body = json.loads(harness.sandbox.journal.entries("POST", "/v2/pods")[-1].body)
        place = Place.parse(offer.id)
        assert (body["cloud"], body["dataCenterIds"]) == (place.cloud, [place.center])
        assert (made.price, made.gpu_count, made.disk_gb) == (offer.price, 1, 10)


# Create


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda offer: replace(offer, id=Place("SECURE", "NVIDIA GeForce GTX 480", "EU-DE-1").id), OfferGone),
        (lambda offer: replace(offer, id=Place("SECURE", Place.parse(offer.id).gpu_id, "MARS-1").id), OfferGone),
    ],
)
def test_what_is_not_there_is_gone(
    harness: RunPodHarness, change: Callable[[Offer], Offer], expected: type[ProviderError]
) -> None:
    """No capacity for this GPU at this place: the next offer may be had."""
    offer = harness.runpod.offers(ANY)[0]
    with pytest.raises(expected):
        harness.runpod.create(change(offer), launch("tag-1"))
    assert harness.machines() == {}


def test_too_little_credit_is_no_capacity() -> None:
    """402 made nothing, and says what RunPod wants."""
    with Sandbox(balance=Usd.parse("0.01"), seed=1) as poor, closing(RunPodHarness(poor)) as harness:
        with pytest.raises(NoCapacity, match="402") as caught:
            rent(harness)
        assert "credit" in caught.value.hint
        assert harness.machines() == {}


def test_an_api_that_was_switched_off_says_so_everywhere(harness: RunPodHarness) -> None:
    """410 is not an outage that asking again could end, and a create made nothing."""
    offer = harness.runpod.offers(ANY)[0]
    for act in (lambda: harness.runpod.offers(ANY), harness.runpod.instances, lambda: harness.runpod.destroy("x")):
        harness.sandbox.faults.set(Fault.HTTP_410)
        with pytest.raises(BadReply) as caught:
            act()
        assert "upgrade" in caught.value.hint and not caught.value.transient
    harness.sandbox.faults.set(Fault.HTTP_410)
    with pytest.raises(NoCapacity, match="410"):
        harness.runpod.create(offer, launch("tag-1"))


def test_an_error_that_names_a_pod_hands_its_id_over(harness: RunPodHarness) -> None:
    """A create that fails after the fact is CreateFailed with the ref, found in RunPod's prose."""
    harness.sandbox.faults.set(Fault.CREATE_ERROR_BUT_CREATED)
    with pytest.raises(CreateFailed) as caught:
        rent(harness)
    assert [caught.value.ref] == list(harness.machines())


def test_a_pod_key_cannot_create_and_that_is_no_hole_in_the_account(harness: RunPodHarness) -> None:
    """403 in RunPod's own words refuses this order only; reads with such a key are AuthFailed."""
    offer, made = rent(harness)
    key = harness.sandbox.market.alive()[0].key
    with closing(harness.open(key)) as limited:
        with pytest.raises(NoCapacity, match="403"):
            limited.create(offer, launch("tag-2"))
        with pytest.raises(AuthFailed):
            limited.instances()
        assert limited.get(made.ref) is not None
    assert list(harness.machines()) == [made.ref]


def test_a_cost_that_comes_late_is_the_agreed_one(harness: RunPodHarness) -> None:
    """RunPod may say 0 of a pod that starts."""
    harness.sandbox.faults.set(RunPodFault.PRICE_LATE)
    offer, made = rent(harness)
    assert made.price == offer.price


# Looking


def test_a_false_404_is_put_right_by_the_list(harness: RunPodHarness) -> None:
    """404 also means "not accessible": only the complete list says that a pod is gone."""
    _, made = rent(harness)
    harness.sandbox.faults.set(Fault.GET_404_WHILE_ALIVE)
    found = harness.runpod.get(made.ref)
    assert found is not None and found.ref == made.ref


def test_pages_are_followed_to_the_end(harness: RunPodHarness) -> None:
    """Pages of one pod each; when one of them fails there is no list at all."""
    refs = {rent(harness, f"tag-{number}")[1].ref for number in range(3)}
    harness.sandbox.faults.set(Fault.SHORT_PAGES, times=3)
    assert {one.ref for one in harness.runpod.instances()} == refs
    harness.sandbox.faults.set(Fault.SHORT_PAGES, times=1)
    harness.sandbox.faults.set(Fault.HTTP_500, on="GET /v2/pods")
    with pytest.raises(Unavailable):
        harness.runpod.instances()


def test_a_pod_stopped_from_outside_is_seen_as_stopped_and_can_be_ended(harness: RunPodHarness) -> None:
    """EXITED still bills its disk: it is listed until it is terminated."""
    _, made = rent(harness)
    harness.sandbox.market.stop(f"i-{made.ref}")
    (seen,) = harness.runpod.instances()
    assert (seen.phase, seen.endpoint, seen.message) == (Phase.STOPPED, None, "the pod is EXITED")
    harness.runpod.destroy(made.ref)
    assert harness.machines() == {}


def test_a_terminated_pod_that_is_still_shown_is_gone(harness: RunPodHarness) -> None:
    """TERMINATED is a record of the past."""
    _, made = rent(harness)
    harness.sandbox.faults.set(Fault.LISTED_AFTER_DESTROY, value=3)
    harness.runpod.destroy(made.ref)
    assert [one.ref for one in harness.runpod.instances()] == [made.ref]
    wait_for(lambda: not harness.runpod.instances(), "the end of the record", 20)
    assert harness.runpod.get(made.ref) is None and harness.machines() == {}


def test_a_false_404_to_a_destroy_leaves_the_pod_in_the_list(harness: RunPodHarness) -> None:
    """Destroy is idempotent, so 404 is accepted; the list goes on telling the truth, and asking again ends it."""
    _, made = rent(harness)
    harness.sandbox.faults.set(Fault.DESTROY_404_WHILE_ALIVE)
    harness.runpod.destroy(made.ref)
    assert [one.ref for one in harness.runpod.instances()] == [made.ref]
    harness.runpod.destroy(made.ref)
    assert harness.machines() == {}


# Manners


def test_requests_name_us_and_carry_no_library_s_name(harness: RunPodHarness) -> None:
    """RunPod's front door turns away what calls itself Python-urllib."""
    rent(harness)
    agents = {entry.headers["user-agent"] for entry in harness.sandbox.journal.entries(path="/v2/")}
    assert len(agents) == 1 and agents.pop().startswith("gpurent/")


def test_reads_wait_as_long_as_runpod_asks_and_creates_do_not(harness: RunPodHarness) -> None:
    """Retry-After is honoured for what may be repeated, up to a minute."""
    clock = ManualClock()
    harness.clock = clock
    with closing(harness.open(harness.sandbox.account_key, Policy(attempts=4, longest_wait_s=60.0))) as patient:
        harness.sandbox.faults.set(Fault.HTTP_429, times=2, value=20)
        assert patient.instances() == []
        assert clock.monotonic() == 40


def test_a_refused_client_is_told_apart_from_a_refused_key() -> None:
    """Cloudflare's 403 is not JSON and says nothing about the key."""
    with Sandbox(seed=1) as elsewhere, closing(RunPodHarness(elsewhere)) as harness:
        harness.runpod._api._headers["User-Agent"] = "Python-urllib/3.12"
        with pytest.raises(AuthFailed) as caught:
            harness.runpod.instances()
        assert "User-Agent" in caught.value.hint


# Money


def test_a_bill_says_how_far_it_reaches_and_is_never_called_final(harness: RunPodHarness) -> None:
    """What was billed equals the market's books; hours that come late are no bill yet, and None is not zero."""
    _, made = rent(harness)
    harness.boot()
    harness.runpod.destroy(made.ref)
    harness.sandbox.faults.set(Fault.CHARGES_LATE, value=7200)
    assert harness.runpod.charges(made.ref) is None
    bill = harness.runpod.charges(made.ref)
    assert bill is not None and not bill.final and bill.until is not None and bill.until > SystemClock().now()
    truth = harness.sandbox.market.charges(f"i-{made.ref}")
    assert (bill.gpu, bill.disk) == (truth.gpu, truth.disk)
    assert harness.runpod.charges("other") is None


@pytest.mark.parametrize("fault", [Fault.HTTP_410, Fault.GARBAGE_REPLY])
def test_without_graphql_the_balance_is_unknown_and_nothing_else_is(harness: RunPodHarness, fault: Fault) -> None:
    """Its retirement is a typed error that does not blame the key; renting goes on."""
    harness.sandbox.faults.set(fault, on="/graphql")
    with pytest.raises(BadReply):
        harness.runpod.balance()
    rent(harness)


def test_a_key_without_graphql_has_an_unknown_balance(harness: RunPodHarness) -> None:
    """401 from GraphQL is not a verdict on a key that opens the REST API."""
    with closing(harness.open("rpa_restricted")) as limited, pytest.raises(BadReply, match="balance is unknown"):
        limited.balance()


# Credentials


@pytest.mark.parametrize(
    ("text", "key"),
    [('apikey = "rpa_top"\n', "rpa_top"), ('[default]\napi_key = " rpa_sdk "\n', "rpa_sdk"),
     ("", ""), ("apikey = 7\n", ""), ('default = "x"\n', "")],
)  # fmt: skip
def test_the_key_of_runpods_own_tools_is_found(tmp_path: Path, text: str, key: str) -> None:
    """runpodctl writes it at the top, the Python SDK into a profile."""
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    assert keyfile.key_in_file(tmp_path / "config.toml") == key
    assert keyfile.key_in_file(tmp_path / "none.toml") == ""


def test_a_broken_file_of_runpods_is_named_and_not_quoted(tmp_path: Path) -> None:
    """The reason is told without the key that may stand in the broken line."""
    (tmp_path / "config.toml").write_text("apikey = rpa_secret\n", encoding="utf-8")
    with pytest.raises(MissingCredentials, match=r"config\.toml") as caught:
        keyfile.key_in_file(tmp_path / "config.toml")
    assert "rpa_secret" not in repr(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url", ["http://api.runpod.io", "ftp://localhost.example", "api.runpod.io", "http://127.1.evil.com"]
)
def test_a_key_never_travels_unencrypted(url: str) -> None:
    """Anything but https is refused, except on this computer."""
    with pytest.raises(ConfigError, match="https"):
        PLUGIN.open({"key": "rpa_x", "url": url}, ManualClock())


def test_the_plugin_opens_with_a_key_and_not_without(market: Sandbox) -> None:
    """Settings, then RunPod's own file; with neither the hint says what to set."""
    with pytest.raises(MissingCredentials) as caught:
        PLUGIN.open({}, ManualClock())
    assert "RUNPOD_API_KEY" in caught.value.hint
    with closing(PLUGIN.open({"key": market.account_key, "url": market.url}, ManualClock())) as opened:
        assert isinstance(opened, RunPodProvider)
        assert len(opened.offers(ANY)) > 5
