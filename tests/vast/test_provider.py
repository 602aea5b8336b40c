"""What the adapter makes of the look-alike's answers: the right error, the right request, and no more of either."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conformance.sandbox_harness import BOOT_S
from tests.session.world import make_job, wait_for
from tests.vast.harness import VastHarness, machines

from gpurent import Broker, Job
from gpurent.clock import ManualClock
from gpurent.errors import (
    AuthFailed,
    BadReply,
    ConfigError,
    CreateFailed,
    MissingCredentials,
    NoCapacity,
    OfferGone,
    RateLimited,
    Unavailable,
)
from gpurent.http import Pace, Policy
from gpurent.model import Instance, Need, Offer, Phase
from gpurent.money import Usd
from gpurent.spi import Offers
from gpurent.testing.conformance import ANY, PUBLIC_KEY, launch
from gpurent_providers.vastai import PLUGIN, search
from gpurent_providers.vastai.keyfile import key_in_files
from gpurent_providers.vastai.provider import PACES, VastProvider
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.server import Sandbox
from gpurent_sandbox.vast import VAST
from gpurent_sandbox.vast.faults import VastFault


def rent(harness: VastHarness, tag: str = "tag-1", number: int = 0) -> tuple[Offer, Instance]:
    offer = harness.vast.offers(ANY)[number]
    return offer, harness.vast.create(offer, launch(tag))


# Offers


def test_a_market_of_more_than_a_search_shows_is_seen_whole() -> None:
    """150 machines, 64 rows at a time."""
    with Sandbox(seed=1, machines=machines(150)) as large, closing(VastHarness(large)) as harness:
        assert len(harness.vast.offers(ANY)) == 150
        assert harness.vast.offers(replace(ANY, gpus=("480",))) == []
        assert {offer.gpu for offer in harness.vast.offers(replace(ANY, gpus=("4090",)))} == {"RTX 4090"}


def test_a_market_that_was_not_seen_whole_is_told_to_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand machines with too old a driver fill all searches: the quote says that there may be more."""
    with Sandbox(seed=1, machines=machines(search.MAX_PAGES * search.CAP + 1)) as large:
        for name, value in VAST.env(large.address).items():
            monkeypatch.setenv(name, value)
        with closing(VastHarness(large)) as harness:
            found = harness.vast.offers(replace(ANY, min_cuda=(13, 0)))
            assert isinstance(found, Offers) and not found
            (note,) = found.notes
            assert "may be missing" in note
            assert getattr(harness.vast.offers(replace(ANY, gpus=("5090",))), "notes", ()) == ()
        with Broker(home=tmp_path / "state", clock=ManualClock(time.time())) as broker:
            quote = broker.quote(Job.from_config(make_job(tmp_path)), replace(ANY, min_cuda=(13, 0)))
            assert note in quote.notes and quote.rows == ()


def test_a_search_that_ignores_filters_misleads_nobody(harness: VastHarness) -> None:
    """Every wish is checked again on our side."""
    need = Need(min_vram_mb=40_000, disk_gb=300, min_reliability=0.99, trusted_only=True)
    harness.sandbox.faults.set(Fault.ODD_OFFERS)
    assert [offer for offer in harness.vast.offers(need) if not need.accepts(offer)] == []


def test_a_host_whose_driver_is_too_old_for_the_image_is_left_out(harness: VastHarness) -> None:
    """The look-alike's drivers run CUDA 12.8."""
    assert harness.vast.offers(replace(ANY, min_cuda=(12, 8)))
    assert harness.vast.offers(replace(ANY, min_cuda=(13, 0))) == []


def test_bids_are_offered_to_who_wants_them(harness: VastHarness) -> None:
    """The same machine twice, cheaper where it may be taken away; a bid is what the instance then costs."""
    assert not any(offer.interruptible for offer in harness.vast.offers(ANY))
    both = harness.vast.offers(replace(ANY, interruptible=True))
    bids = [offer for offer in both if offer.interruptible]
    assert 2 * len(bids) == len(both)
    made = harness.vast.create(bids[0], launch("tag-1"))
    assert made.price == bids[0].price
    body = json.loads(harness.sandbox.journal.entries("PUT", "/api/v0/asks/")[-1].body)
    assert Usd.from_wire(body["price"]) == bids[0].price.gpu_hour and body["cancel_unavail"] is True


def test_a_search_quota_is_told_with_its_end(harness: VastHarness) -> None:
    """The day's searches are used up: asking again now is of no use, and it is not done."""
    clock = ManualClock(harness.clock.now())
    harness.clock = clock
    with closing(harness.open(harness.sandbox.account_key, Policy(attempts=4))) as patient:
        harness.sandbox.faults.set(VastFault.SEARCH_QUOTA, times=5)
        before = harness.requests()
        with pytest.raises(RateLimited) as caught:
            patient.offers(ANY)
        assert harness.requests() == before + 1
        assert caught.value.retry_after is not None and 0 <= caught.value.retry_after <= 86_400


# Create


def test_a_bid_below_the_floor_is_gone(harness: VastHarness) -> None:
    """The floor moved up since the search."""
    bid = next(one for one in harness.vast.offers(replace(ANY, interruptible=True)) if one.interruptible)
    with pytest.raises(OfferGone):
        harness.vast.create(replace(bid, id=bid.id.split("@")[0] + "@1000"), launch("tag-1"))
    assert harness.machines() == {}


def test_too_little_credit_is_no_capacity() -> None:
    """400 made nothing, and says where to add credit."""
    with Sandbox(balance=Usd(0), seed=1, machines=machines(2)) as poor, closing(VastHarness(poor)) as harness:
        with pytest.raises(NoCapacity, match="credit") as caught:
            rent(harness)
        assert "billing" in caught.value.hint and harness.machines() == {}


def test_an_error_that_names_a_contract_hands_its_number_over(harness: VastHarness) -> None:
    """A refusal that made something all the same."""
    harness.sandbox.faults.set(Fault.CREATE_ERROR_BUT_CREATED)
    with pytest.raises(CreateFailed) as caught:
        rent(harness)
    assert [caught.value.ref] == list(harness.machines())


def test_a_new_instance_that_is_not_shown_yet_costs_what_was_agreed(harness: VastHarness) -> None:
    """The price is read back once; when that fails the offer's stands until the next look."""
    harness.sandbox.faults.set(Fault.LIST_LAG, value=30)
    offer, made = rent(harness)
    assert (made.price, made.phase, [made.ref]) == (offer.price, Phase.STARTING, list(harness.machines()))


def test_a_start_up_script_has_the_length_that_vast_promises_to_take(harness: VastHarness) -> None:
    """Longer ones are a violation in the journal, which the fixture reads."""
    offer = harness.vast.offers(ANY)[0]
    harness.vast.create(offer, replace(launch("tag-1"), startup="#" * 4096))
    assert len(harness.machines()) == 1


# Keys of SSH


def test_a_key_is_attached_once_however_often_it_is_asked_for(harness: VastHarness) -> None:
    """Already associated is a success."""
    _, made = rent(harness)
    for _ in range(2):
        harness.vast.attach_key(made.ref, PUBLIC_KEY)
    (held,) = harness.sandbox.market.alive()
    assert list(harness.sandbox.market.admitted(held.id)).count(PUBLIC_KEY) == 1


def test_a_key_for_an_instance_that_is_not_there_yet_is_too_early(harness: VastHarness) -> None:
    """404 while it materialises: asked again later."""
    with pytest.raises(Unavailable):
        harness.vast.attach_key("30000001", PUBLIC_KEY)


# Looking


@pytest.mark.parametrize("fault", [Fault.GET_404_WHILE_ALIVE, VastFault.RAW_CONTROL])
def test_a_look_that_is_misled_is_put_right(harness: VastHarness, fault: Fault) -> None:
    """A false 404 is checked against the list, and control characters in a message break nothing."""
    _, made = rent(harness)
    harness.boot()
    harness.sandbox.faults.set(fault)
    found = harness.vast.get(made.ref)
    assert found is not None and found.ref == made.ref


def test_pages_are_followed_to_the_end(harness: VastHarness) -> None:
    """Pages of one instance each; when one of them fails there is no list at all."""
    refs = {rent(harness, f"tag-{number}")[1].ref for number in range(3)}
    harness.sandbox.faults.set(Fault.SHORT_PAGES, times=3)
    assert {one.ref for one in harness.vast.instances()} == refs
    harness.sandbox.faults.set(Fault.SHORT_PAGES, times=1)
    harness.sandbox.faults.set(Fault.HTTP_500, on="GET /api/v1/instances/")
    with pytest.raises(Unavailable):
        harness.vast.instances()


def test_an_instance_stopped_from_outside_is_seen_as_stopped_and_can_be_ended(harness: VastHarness) -> None:
    """Stopped still bills its disk: it is listed until it is destroyed."""
    _, made = rent(harness)
    harness.sandbox.market.stop(harness.market_id(made.ref), "stopped")
    (seen,) = harness.vast.instances()
    assert (seen.phase, seen.endpoint) == (Phase.STOPPED, None)
    harness.vast.destroy(made.ref)
    assert harness.machines() == {}


def test_a_false_404_to_a_destroy_leaves_the_instance_in_the_list(harness: VastHarness) -> None:
    """Destroy is idempotent, so its 404 is accepted; the list goes on telling the truth."""
    _, made = rent(harness)
    harness.sandbox.faults.set(Fault.DESTROY_404_WHILE_ALIVE)
    harness.vast.destroy(made.ref)
    assert [one.ref for one in harness.vast.instances()] == [made.ref]
    harness.vast.destroy(made.ref)
    assert harness.machines() == {}


# Manners


@pytest.mark.parametrize(
    "act",
    [lambda api: api.instances(), lambda api: api.balance(), lambda api: api.destroy("1"), lambda api: api.get("1")],
)
def test_a_second_factor_is_no_wrong_key_and_says_what_to_do(
    harness: VastHarness, act: Callable[[VastProvider], object]
) -> None:
    """A permanent refusal: the hint names the way out."""
    harness.sandbox.faults.set(VastFault.SECOND_FACTOR)
    with pytest.raises(AuthFailed) as caught:
        act(harness.vast)
    assert "second factor" in caught.value.hint


def test_an_api_that_was_switched_off_says_so(harness: VastHarness) -> None:
    """410 is not an outage that asking again could end, and a create made nothing."""
    offer = harness.vast.offers(ANY)[0]
    for act in (lambda: harness.vast.offers(ANY), harness.vast.instances, lambda: harness.vast.destroy("1")):
        harness.sandbox.faults.set(Fault.HTTP_410)
        with pytest.raises(BadReply) as caught:
            act()
        assert "upgrade" in caught.value.hint and not caught.value.transient
    harness.sandbox.faults.set(Fault.HTTP_410)
    with pytest.raises(NoCapacity, match="410"):
        harness.vast.create(offer, launch("tag-1"))


def too_soon(paces: tuple[Pace, ...]) -> set[str]:
    """Requests of a long search and a rental that come too soon for Vast.ai; waiting is the clock's, not ours."""
    clock = ManualClock(time.time())
    with Sandbox(clock=clock, boot_s=BOOT_S, seed=1, machines=machines(search.CAP * 5 + 1)) as strict:
        strict.faults.set(VastFault.MIN_INTERVALS)
        policy = Policy(attempts=1, paces=paces)
        with closing(VastProvider(strict.url, strict.account_key, clock, policy=policy)) as api:
            for _ in range(2):
                assert api.offers(replace(ANY, min_cuda=(13, 0))) == []
            made = [api.create(offer, launch("tag-1")) for offer in api.offers(replace(ANY, gpus=("5090",)))[:2]]
            acts = (api.get, api.charges, lambda _: api.instances(), lambda ref: api.attach_key(ref, PUBLIC_KEY))
            for act in (*acts, api.destroy):
                for one in made:
                    act(one.ref)
        return {f"{entry.method} {entry.path}" for entry in strict.journal.entries() if entry.status == 429}


def test_requests_keep_the_pace_that_vast_asks_for() -> None:
    """Under its documented shortest times no request of two long searches and two rentals is refused."""
    assert too_soon(PACES) == set()


@pytest.mark.parametrize("pace", PACES, ids=lambda pace: f"{pace.method} {pace.path}")
def test_no_pace_is_kept_for_nothing(pace: Pace) -> None:
    """Without it, Vast.ai's rules would have refused something on that route."""
    with pytest.raises(RateLimited) as caught:
        too_soon(tuple(one for one in PACES if one is not pace))
    method, path = re.search(r"(GET|POST|PUT|DELETE) (\S+):", str(caught.value)).groups()  # type: ignore[union-attr]
    assert pace.covers(method, path)


# Money


def test_a_bill_says_how_far_it_reaches_and_is_never_called_final() -> None:
    """What was booked is the market's truth, each part to a tenth of a cent, up to the end of its last row."""
    clock = ManualClock(time.time())
    with Sandbox(clock=clock, seed=1, machines=machines(2)) as sandbox, closing(VastHarness(sandbox)) as harness:
        harness.clock = clock
        with closing(harness.open(sandbox.account_key)) as api:
            made = api.create(api.offers(ANY)[0], launch("tag-1"))
            clock.sleep(5 * 3600)
            sandbox.market.traffic(harness.market_id(made.ref), in_bytes=3 * 10**9, out_bytes=2 * 10**9)
            api.destroy(made.ref)
            sandbox.faults.set(Fault.CHARGES_LATE, value=4 * 3600)
            part_of_it = api.charges(made.ref)
            bill = api.charges(made.ref)
            truth = sandbox.market.charges(harness.market_id(made.ref))
    assert part_of_it is not None and bill is not None and not bill.final
    assert (part_of_it.until, bill.until) == (clock.now() - 4 * 3600, clock.now())
    assert part_of_it.gpu.micros * 4 < bill.gpu.micros
    assert truth.total > Usd.parse("0.3") and truth.traffic_in > Usd.parse("0.002")
    for part in ("gpu", "disk", "traffic_in", "traffic_out"):
        assert abs(getattr(bill, part).micros - getattr(truth, part).micros) <= 500


def test_charges_that_are_booked_late_are_no_bill_yet(harness: VastHarness) -> None:
    """None is not zero."""
    _, made = rent(harness)
    harness.vast.destroy(made.ref)
    harness.sandbox.faults.set(Fault.CHARGES_LATE, value=3600)
    assert harness.vast.charges(made.ref) is None


# Credentials


def test_the_key_of_vasts_own_client_is_found(tmp_path: Path) -> None:
    """Where it writes today, then where it wrote once."""
    assert key_in_files({}, tmp_path) is None
    (tmp_path / ".vast_api_key").write_text("old\n", encoding="utf-8")
    assert key_in_files({}, tmp_path) == ("old", tmp_path / ".vast_api_key")
    (tmp_path / ".config/vastai").mkdir(parents=True)
    (tmp_path / ".config/vastai/vast_api_key").write_text(" new\n", encoding="utf-8")
    assert key_in_files({}, tmp_path) == ("new", tmp_path / ".config/vastai/vast_api_key")
    (tmp_path / "elsewhere/vastai").mkdir(parents=True)
    (tmp_path / "elsewhere/vastai/vast_api_key").write_bytes(b"\xff\xfe")
    with pytest.raises(MissingCredentials, match="vast_api_key"):
        key_in_files({"XDG_CONFIG_HOME": str(tmp_path / "elsewhere")}, tmp_path)


@pytest.mark.parametrize("url", ["http://console.vast.ai", "ftp://localhost.example", "console.vast.ai"])
def test_a_key_never_travels_unencrypted(url: str) -> None:
    """Anything but https is refused, except on this computer."""
    with pytest.raises(ConfigError, match="https"):
        PLUGIN.open({"key": "x", "url": url}, ManualClock())


def test_the_plugin_opens_with_a_key_and_not_without(
    market: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With neither setting nor file the hint says what to set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    with pytest.raises(MissingCredentials) as caught:
        PLUGIN.open({}, ManualClock())
    assert "VAST_API_KEY" in caught.value.hint
    with closing(PLUGIN.open({"key": market.account_key, "url": market.url}, ManualClock())) as opened:
        assert len(opened.offers(ANY)) > 5


def test_unverified_machines_are_offered_on_request(market: Sandbox) -> None:
    """A setting of the provider, off by default."""
    with Sandbox(seed=1) as mixed:
        counts = []
        for unverified in ("", "true"):
            given = {"key": mixed.account_key, "url": mixed.url, "unverified": unverified}
            with closing(PLUGIN.open(given, ManualClock())) as opened:
                counts.append(len(opened.offers(ANY)))
        assert counts[1] >= counts[0] > 5


def test_an_outbid_machine_waits_and_bills_until_it_is_ended(harness: VastHarness) -> None:
    """It is stopped, with the reason, and destroy ends its disk as well."""
    harness.sandbox.faults.set(Fault.OUTBID, value=0.1)
    bid = next(one for one in harness.vast.offers(replace(ANY, interruptible=True)) if one.interruptible)
    made = harness.vast.create(bid, launch("tag-1"))
    wait_for(lambda: harness.vast.instances()[0].phase is Phase.STOPPED, "the higher bid", 20)
    assert "bid more" in harness.vast.instances()[0].message
    harness.vast.destroy(made.ref)
    assert harness.machines() == {}
