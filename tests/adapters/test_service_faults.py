"""Faults that one service has and the other has not, or has otherwise, met by a real rental.

As elsewhere here: afterwards the ledger holds nothing open, and the market's back door shows no instance.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.adapters.renter import QUICK, Renter
from tests.session.world import wait_for

from gpurent.budget.events import Kind
from gpurent.errors import AuthFailed, BadReply, HostUnreachable, NoCapacity, OfferGone, ProviderError, RateLimited
from gpurent.model import Phase
from gpurent.spi import SupportsClock, SupportsKeys
from gpurent.testing.conformance import ANY, PUBLIC_KEY
from gpurent_providers.runpod.wire import Place
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.installed import LOOK_ALIKES
from gpurent_sandbox.lookalike import fault_kinds
from gpurent_sandbox.runpod.faults import RunPodFault
from gpurent_sandbox.vast.faults import VastFault

vast = pytest.mark.parametrize("harness", ["vastai"], indirect=True)
runpod = pytest.mark.parametrize("harness", ["runpod"], indirect=True)


def hasty(renter: Renter) -> Renter:
    """Someone who waits two seconds for a boot."""
    return replace(renter, rentals=replace(renter.rentals, patience=replace(QUICK, boot_s=2)))


# Not what was offered


def test_a_wrong_gpu_is_named_beside_the_one_that_was_offered(renter: Renter) -> None:
    """Both stand in the message."""
    renter.harness.sandbox.faults.set(Fault.WRONG_GPU)
    offer = renter.offer()
    with pytest.raises(OfferGone) as caught:
        renter.rent(offer=offer)
    (held,) = renter.harness.sandbox.market.alive()
    assert offer.gpu in str(caught.value) and held.gpu in str(caught.value) and held.gpu != offer.gpu


def test_every_kind_of_gpu_is_recognised_as_itself(renter: Renter) -> None:
    """Whatever ids and names a service has for one card: no machine is given back for its spelling."""
    api = renter.rentals.providers[renter.harness.name]
    kinds = {offer.gpu: offer for offer in api.offers(ANY)}
    assert len(kinds) > 4
    for offer in kinds.values():
        other = renter.again()
        other.rent(offer=offer)
        other.end()


@vast
def test_dearer_traffic_is_no_bargain_either(renter: Renter) -> None:
    """The price per GB is agreed as well: an instance that tells a higher one is given back."""
    renter.harness.sandbox.faults.set(Fault.WRONG_TRAFFIC_PRICE, value=5)
    with pytest.raises(OfferGone, match=r"per GB.*giving it back"):
        renter.rent()


@runpod
def test_a_pod_in_another_data_centre_is_given_back(renter: Renter) -> None:
    """Where data may lie was chosen with the offer."""
    renter.harness.sandbox.faults.set(RunPodFault.WRONG_DATA_CENTER)
    offer = renter.offer()
    with pytest.raises(OfferGone, match=f"OC-AU-1, not in {offer.region}; giving it back"):
        renter.rent(offer=offer)


# Refusals


@vast
@pytest.mark.parametrize(("status", "error"), [(200, NoCapacity), (400, NoCapacity), (403, OfferGone)])
def test_vast_s_refusals_made_nothing(renter: Renter, status: int, error: type[ProviderError]) -> None:
    """Also the one that calls itself 200: there is nothing to look for, and the next offer may be had."""
    renter.harness.sandbox.faults.set(Fault.CREATE_REFUSED, value=status)
    with pytest.raises(error):
        renter.rent()
    assert renter.ledger.open_rentals() == () and renter.harness.create_requests() == 1


@runpod
@pytest.mark.parametrize(("status", "word"), [(400, "refuses"), (402, "credit"), (403, "key")])
def test_runpod_s_refusals_made_nothing_and_say_what_to_do(renter: Renter, status: int, word: str) -> None:
    """A rule, no credit, no right to that kind of pod: each with its own hint."""
    renter.harness.sandbox.faults.set(Fault.CREATE_REFUSED, value=status)
    with pytest.raises(NoCapacity, match=str(status)) as caught:
        renter.rent()
    assert word in caught.value.hint
    assert renter.ledger.open_rentals() == () and renter.harness.create_requests() == 1


@runpod
def test_no_capacity_at_one_place_leaves_the_others(renter: Renter) -> None:
    """A GPU in one cloud and data centre is out of stock in spite of the catalogue: the next place has it."""
    api = renter.rentals.providers["runpod"]
    first, second, *_ = sorted(api.offers(ANY), key=lambda one: one.id)
    place = Place.parse(first.id)
    renter.harness.sandbox.faults.set(RunPodFault.NO_CAPACITY, p=1.0, on=f"{place.cloud}/{place.center}/{place.gpu_id}")
    with pytest.raises(OfferGone, match="no longer any instances"):
        renter.rent(offer=first)
    again = renter.again()
    again.rent(offer=second)
    again.end()


@runpod
def test_an_image_that_is_not_in_the_registry_is_refused_at_once(renter: Renter) -> None:
    """RunPod looks before it rents; nobody else would take it either."""
    renter.harness.sandbox.faults.set(Fault.BAD_IMAGE)
    with pytest.raises(NoCapacity, match="registry") as caught:
        renter.rent()
    assert "image" in caught.value.hint


@vast
def test_a_key_that_wants_a_second_factor_rents_nothing(renter: Renter) -> None:
    """Nothing was made, and the hint says which key to make."""
    offer = renter.offer()
    renter.harness.sandbox.faults.set(VastFault.SECOND_FACTOR, p=1.0)
    with pytest.raises(AuthFailed, match="Two Factor"):
        renter.rent(offer=offer)
    assert renter.ledger.open_rentals() == ()
    renter.harness.sandbox.faults.clear()


@vast
def test_a_create_that_comes_too_soon_is_not_repeated(renter: Renter) -> None:
    """429 made nothing; how long to wait stands in the body."""
    offer = renter.offer()
    renter.harness.sandbox.faults.set(VastFault.RATE_LIMIT_IN_JSON, value=7, on=renter.harness.create_fault)
    with pytest.raises(RateLimited) as caught:
        renter.rent(offer=offer)
    assert caught.value.retry_after == 7 and renter.harness.create_requests() == 1
    assert renter.ledger.open_rentals() == ()


# Boot


@vast
def test_a_host_that_cannot_find_the_image_ends_the_wait(renter: Renter) -> None:
    """Vast.ai finds out while it boots, and says so in a message only."""
    renter.harness.sandbox.faults.set(Fault.BAD_IMAGE)
    with pytest.raises(HostUnreachable, match=r"manifest for .* not found"):
        renter.reach(renter.rent())


@vast
def test_a_host_that_goes_offline_is_given_up(renter: Renter) -> None:
    """Vast.ai calls it terminal, though it may come back: it is destroyed, so that it does not come back to bill."""
    renter.harness.sandbox.faults.set(VastFault.HOST_OFFLINE, value=30)
    with pytest.raises(HostUnreachable, match="the machine was stopped"):
        renter.reach(renter.rent())


@vast
def test_a_host_that_was_offline_and_is_back_is_seen_as_running(renter: Renter) -> None:
    """The adapter holds no grudge: a look tells what is."""
    api = renter.rentals.providers["vastai"]
    renter.harness.sandbox.faults.set(VastFault.HOST_OFFLINE, value=4)
    held = renter.rent()
    seen: list[Phase] = []

    def phase() -> Phase:
        found = api.get(held.ref)
        assert found is not None
        seen.append(found.phase)
        return found.phase

    wait_for(lambda: phase() is Phase.RUNNING, "the recovery", 20)
    assert Phase.STOPPED in seen


@vast
def test_a_bid_that_gets_its_machine_back_is_ended_all_the_same(renter: Renter) -> None:
    """Outbid, it was given up; that it resumes by itself later costs nothing, for it is destroyed by then."""
    sandbox = renter.harness.sandbox
    sandbox.faults.set(Fault.OUTBID, value=0.2)
    sandbox.faults.set(Fault.OUTBID_RETURNS, value=5)
    api = renter.rentals.providers["vastai"]
    bid = next(one for one in api.offers(replace(ANY, interruptible=True)) if one.interruptible)
    held = renter.rent(offer=bid)
    wait_for(lambda: (one := api.get(held.ref)) is not None and one.phase is Phase.STOPPED, "the higher bid", 20)
    wait_for(lambda: (one := api.get(held.ref)) is not None and one.phase is Phase.RUNNING, "the return", 20)
    (market,) = sandbox.market.alive()
    assert market.idle_s > 0
    renter.end()
    assert Kind.GONE in renter.kinds() and sandbox.market.alive() == []


@vast
def test_ports_that_come_late_are_bridged_by_the_proxy(renter: Renter) -> None:
    """Until the machine's own port is known, Vast.ai's proxy answers."""
    renter.harness.sandbox.faults.set(Fault.PORTS_LATE, value=60)
    with closing(renter.reach(renter.rent())) as host:
        assert host.run("true").status == 0


@vast
def test_an_account_of_a_team_is_reached_by_the_start_up_script(renter: Renter) -> None:
    """No key can be attached: asked once, told, and not asked again."""
    renter.harness.sandbox.faults.set(VastFault.TEAM_KEYS, times=5)
    held = renter.rent()
    with closing(renter.reach(held)) as host:
        assert host.run("true").status == 0
    asked = [one for one in renter.harness.sandbox.journal.entries("POST") if one.path.endswith(f"{held.ref}/ssh/")]
    assert [one.status for one in asked] == [400]
    api = renter.rentals.providers["vastai"]
    assert isinstance(api, SupportsKeys)
    with pytest.raises(BadReply, match="team") as caught:
        api.attach_key(held.ref, PUBLIC_KEY)
    assert not caught.value.transient


@runpod
def test_a_container_that_never_stays_up_is_given_up(renter: Renter) -> None:
    """RUNNING without ports and uptime: its machine runs, and that is all."""
    renter.harness.sandbox.faults.set(RunPodFault.CRASH_LOOP)
    waiting = hasty(renter)
    with pytest.raises(HostUnreachable, match="its container has not come up"):
        waiting.reach(waiting.rent())


# Traffic and clocks


@vast
@pytest.mark.parametrize(("later_s", "counted"), [(0.0, True), (3600.0, False)])
def test_traffic_that_no_client_caused_is_told_as_the_service_counts_it(
    renter: Renter, later_s: float, counted: bool
) -> None:
    """RunPod bills no traffic, and counts none."""
    renter.harness.sandbox.faults.set(Fault.FOREIGN_TRAFFIC, p=1.0)
    renter.harness.sandbox.faults.set(Fault.FOREIGN_TRAFFIC_LATER, p=1.0, value=later_s)
    held = renter.rent()
    api = renter.rentals.providers["vastai"]
    wait_for(lambda: (seen := api.get(held.ref)) is not None and seen.phase is Phase.RUNNING, "the start", 10)

    def bytes_out() -> int:
        seen = api.get(held.ref)
        assert seen is not None
        return seen.bytes_out or 0

    if counted:
        wait_for(lambda: bytes_out() > 1_000_000, "a megabyte of foreign traffic", 10)
    else:
        assert bytes_out() == 0


def test_a_price_that_is_raised_while_it_runs_is_told(renter: Renter) -> None:
    """What an instance costs is asked for again and again, not taken from its offer."""
    renter.harness.sandbox.faults.set(Fault.PRICE_RAISED, p=1.0)
    renter.harness.sandbox.faults.set(Fault.PRICE_RAISED_LATER, p=1.0, value=2.0)
    offer = renter.offer()
    held = renter.rent(offer=offer)
    api = renter.rentals.providers[renter.harness.name]

    def raised() -> bool:
        seen = api.get(held.ref)
        return seen is not None and seen.price.gpu_hour > offer.price.gpu_hour

    wait_for(raised, "the higher price", 10)
    renter.harness.sandbox.faults.clear()


def test_a_clock_of_a_service_that_is_ahead_is_measured(renter: Renter) -> None:
    """By the dates of its replies."""
    renter.harness.sandbox.faults.set(Fault.DATE_AHEAD, p=1.0)
    api = renter.rentals.providers[renter.harness.name]
    api.instances()
    assert isinstance(api, SupportsClock)
    offset = api.clock_offset()
    assert offset is not None and abs(abs(offset) - 4 * 3600.0) < 60
    renter.harness.sandbox.faults.clear()


# Lists


@vast
def test_an_old_list_that_is_empty_fools_nobody(renter: Renter) -> None:
    """Brokers that believed it rented again and again; ours asks for the new one."""
    renter.harness.sandbox.faults.set(VastFault.OLD_LIST_EMPTY, p=1.0)
    renter.harness.sandbox.faults.set(Fault.CREATE_REPLY_LOST)
    held = renter.rent()
    key = {"Authorization": f"Bearer {renter.harness.sandbox.account_key}"}
    assert httpx.get(f"{renter.harness.sandbox.url}/api/v0/instances/", headers=key).json()["instances"] == []
    assert [one.ref for one in renter.rentals.providers["vastai"].instances()] == [held.ref]
    assert renter.harness.create_requests() == 1


# All of them


def ordered(folders: tuple[str, ...]) -> Iterator[str]:
    """Faults that are named in tests."""
    for path in (path for folder in folders for path in Path(__file__).parents[1].glob(f"{folder}/test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id.endswith("Fault"):
                yield node.attr


def test_every_fault_is_ordered_before_an_adapter() -> None:
    """One that nobody orders proves nothing. The sandbox's own listing is that of the simulation."""
    own = {"PAGES_SHIFT"}
    assert {kind.name for kind in fault_kinds(LOOK_ALIKES)} - own == set(ordered(("adapters", "vast", "runpod")))
