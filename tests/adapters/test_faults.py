"""Every fault of the look-alikes in turn, met by a real rental over real SSH: it recovers or ends in a typed error.

Afterwards the ledger holds nothing open, and the market's back door shows no instance, known or unknown.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
from tests.adapters.alike import AlikeHarness
from tests.adapters.renter import QUICK, Renter
from tests.session.world import wait_for

from gpurent.budget.events import Kind
from gpurent.errors import GuardFailed, HostKeyMismatch, HostUnreachable, InDoubt, NoCapacity, OfferGone, ProviderError
from gpurent.jobs.rental import LaunchOrder
from gpurent.money import Usd
from gpurent.testing.conformance import ANY, launch
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.processes import processes_under
from gpurent_sandbox.runpod.faults import RunPodFault
from gpurent_sandbox.vast.faults import VastFault


def instance_key(renter: Renter) -> str:
    (held,) = renter.harness.sandbox.market.alive()
    return held.key


# Nothing is wrong


def test_an_instance_answers_over_ssh_whatever_image_it_runs(renter: Renter) -> None:
    """Images with an sshd of their own and others: each answers with the host key that we pinned."""
    image = [*renter.harness.images.values()][-1]
    with closing(renter.reach(renter.rent(image))) as host:
        assert host.run("echo here").stdout == "here\n"


def test_the_dead_man_switch_ends_the_instance_with_the_instance_s_own_key(renter: Renter) -> None:
    """It is armed with what RunPod injects and calls itself by a name; no file or process there holds our key."""
    held = renter.rent()
    with closing(renter.reach(held)) as host:
        guard = renter.rentals.guard(host, renter.harness.name, renter.clock.now() + 3600, LaunchOrder("x", 10))
        assert guard is not None
        keys = (renter.harness.sandbox.account_key, renter.harness.sandbox.control_key)
        root = renter.harness.sandbox.state_dir / "hosts" / renter.harness.market_id(held.ref)
        running = [" ".join(process.cmdline()) for process in processes_under(root)]
        kept = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
        assert any("deadman.py" in line for line in running) and kept
        assert not any(key in line for key in (*keys, instance_key(renter)) for line in running)
        assert not any(key.encode() in data for key in keys for data in kept)
        guard.hard = lambda: renter.clock.now()
        guard._set()
    wait_for(lambda: renter.harness.machines() == {}, "the end of the instance", 20)
    asked = renter.harness.sandbox.journal.entries()[-1]
    assert held.ref in asked.path and asked.method in ("DELETE", "POST")
    assert asked.headers["user-agent"].startswith("gpurent-deadman/")


def test_an_instance_without_its_own_key_is_not_trusted_with_a_job(renter: Renter) -> None:
    """A dead-man switch that could not destroy its instance is found out before anything is sent there."""
    renter.harness.sandbox.faults.set(Fault.NO_INSTANCE_KEY)
    held = renter.rent()
    with closing(renter.reach(held)) as host, pytest.raises(GuardFailed, match="no key"):
        renter.rentals.guard(host, renter.harness.name, renter.clock.now() + 3600, LaunchOrder("x", 10))


# Create


@pytest.mark.parametrize("fault", [Fault.CREATE_REPLY_LOST, Fault.CREATE_ERROR_BUT_CREATED, Fault.GARBAGE_REPLY])
def test_an_instance_whose_create_was_not_answered_is_adopted(renter: Renter, fault: Fault) -> None:
    """It is found by its name and used; create was sent once."""
    renter.harness.sandbox.faults.set(fault, on=renter.harness.create_fault if fault is Fault.GARBAGE_REPLY else "")
    held = renter.rent()
    assert renter.harness.machines() == {held.ref: renter.tag}
    assert Kind.ADOPTED in renter.kinds() and renter.harness.create_requests() == 1
    renter.reach(held).close()


def test_a_lost_instance_that_is_listed_late_is_still_found(renter: Renter) -> None:
    """The reply is lost and the list lags: looking goes on."""
    renter.harness.sandbox.faults.set(Fault.CREATE_REPLY_LOST)
    renter.harness.sandbox.faults.set(Fault.LIST_LAG, value=1)
    patient = replace(renter, rentals=replace(renter.rentals, patience=replace(QUICK, search_s=20)))
    held = patient.rent()
    assert renter.harness.machines() == {held.ref: renter.tag}


@pytest.mark.parametrize("fault", [Fault.HTTP_500, Fault.HTTP_502])
def test_a_create_that_was_never_carried_out_is_not_sent_again(renter: Renter, fault: Fault) -> None:
    """A 500 may have made something: without an instance of that name the run is in doubt, and its watch goes on."""
    renter.harness.sandbox.faults.set(fault, on=renter.harness.create_fault)
    with pytest.raises(InDoubt):
        renter.rent()
    assert renter.harness.create_requests() == 1 and renter.harness.machines() == {}
    (open_rental,) = renter.ledger.open_rentals()
    assert open_rental.tag == renter.tag


@pytest.mark.parametrize(("fault", "error"), [(Fault.OFFER_TAKEN, OfferGone), (Fault.HTTP_410, NoCapacity)])
def test_a_refused_create_leaves_nothing_to_look_for(renter: Renter, fault: Fault, error: type[ProviderError]) -> None:
    """Where RunPod says plainly that nothing was made, the ledger closes the rental at once."""
    renter.harness.sandbox.faults.set(fault, on=renter.harness.create_fault if fault is Fault.HTTP_410 else "")
    with pytest.raises(error):
        renter.rent()
    assert renter.ledger.open_rentals() == ()


@pytest.mark.parametrize("fault", [Fault.WRONG_PRICE, Fault.WRONG_GPU_COUNT, Fault.WRONG_GPU])
def test_an_instance_that_is_not_what_was_offered_is_given_back(renter: Renter, fault: Fault) -> None:
    """Dearer than agreed, without its GPU or with another one: it is noticed at once, before anything is sent."""
    renter.harness.sandbox.faults.set(fault)
    with pytest.raises(OfferGone, match="giving it back"):
        renter.rent()
    assert len(renter.harness.machines()) == 1


@pytest.mark.parametrize("fault", [Fault.WRONG_PRICE, Fault.WRONG_GPU_COUNT, Fault.WRONG_GPU])
def test_an_adopted_instance_is_compared_as_well(renter: Renter, fault: Fault) -> None:
    """Losing the reply does not hide what came of it."""
    renter.harness.sandbox.faults.set(Fault.CREATE_REPLY_LOST)
    renter.harness.sandbox.faults.set(fault)
    with pytest.raises(OfferGone, match="giving it back"):
        renter.rent()


def test_a_price_that_comes_late_and_higher_is_noticed_before_ssh(renter: Renter) -> None:
    """A cost of 0 is believed only until there is another."""
    renter.harness.sandbox.faults.set(RunPodFault.PRICE_LATE)
    renter.harness.sandbox.faults.set(Fault.WRONG_PRICE)
    with pytest.raises(OfferGone, match="giving it back"):
        renter.reach(renter.rent())


# Boot


@pytest.mark.parametrize("fault", [Fault.BOOT_STUCK, Fault.NO_SSHD, Fault.NO_ADDRESS, Fault.BOOT_FAILS])
def test_an_instance_that_never_answers_is_given_up(renter: Renter, fault: Fault) -> None:
    """Stuck in provisioning, running without sshd, or without a public address: not reached within the patience."""
    renter.harness.sandbox.faults.set(fault)
    hasty = replace(renter, rentals=replace(renter.rentals, patience=replace(QUICK, boot_s=2)))
    with pytest.raises(HostUnreachable, match=r"no SSH|will not start|CDI"):
        hasty.reach(hasty.rent())


@pytest.mark.parametrize(
    ("fault", "value"),
    [
        (Fault.SSHD_REFUSES_KEY_FOR, 1.0),
        (Fault.LIST_LAG, 1.5),
        (RunPodFault.PRICE_LATE, None),
        (VastFault.HEARTBEAT_LOST, 1.0),
        (Fault.SSHD_FIRST, 1.0),
        (VastFault.RAW_CONTROL, None),
        (VastFault.MIN_INTERVALS, 0.1),
        (Fault.PORTS_LATE, 1.0),
    ],
)
def test_an_instance_that_is_slow_is_waited_for(renter: Renter, fault: Fault, value: float | None) -> None:
    """sshd refuses the key at first, or the instance is listed late: that passes."""
    renter.harness.sandbox.faults.set(fault, value=value)
    with closing(renter.reach(renter.rent())) as host:
        assert host.run("true").status == 0


def test_an_instance_that_moves_is_followed(renter: Renter) -> None:
    """RunPod gives a restarted container another port: the same connection goes on there."""
    renter.harness.sandbox.faults.set(Fault.ENDPOINT_MOVES, value=5)
    with closing(renter.reach(renter.rent())) as host:
        (held,) = renter.harness.sandbox.market.alive()
        market = renter.harness.sandbox.market
        wait_for(lambda: market.alive()[0].port != held.port, "the move", 20)
        assert host.run("echo again").stdout == "again\n"


def test_a_link_that_is_cut_is_made_again(renter: Renter) -> None:
    """The machine is still the same one, and the work goes on."""
    with closing(renter.reach(renter.rent())) as host:
        renter.harness.sandbox.faults.set(Fault.DROP_SSH)
        wait_for(lambda: renter.harness.sandbox.faults.armed(Fault.DROP_SSH) is None, "the cut", 20)
        assert host.run("echo again").stdout == "again\n"


def test_a_slow_link_is_only_slow(renter: Renter) -> None:
    """A machine behind it is reached and used."""
    renter.harness.sandbox.faults.set(Fault.SLOW_LINK, p=1.0, value=30_000)
    with closing(renter.reach(renter.rent())) as host:
        host.put_bytes(b"x" * 20_000, "blob")
        assert host.read("blob", 0, 30_000) == b"x" * 20_000


@pytest.mark.parametrize("fault", [Fault.HOST_VANISHES, Fault.CREDIT_EXHAUSTED, Fault.STOPS_UNASKED])
def test_an_instance_that_ends_by_itself_is_noticed_before_the_patience_is_over(renter: Renter, fault: Fault) -> None:
    """The host is lost, or the credit is used up, at which services stop or end instances."""
    renter.harness.sandbox.faults.set(Fault.BOOT_STUCK)
    renter.harness.sandbox.faults.set(fault, value=1.0)
    with pytest.raises(HostUnreachable, match=r"the machine (is gone|was stopped)"):
        renter.reach(renter.rent())
    renter.harness.sandbox.market._deposit += Usd.parse("100")


def test_a_bid_that_is_outbid_is_noticed(harness: AlikeHarness, renter: Renter) -> None:
    """An interruptible machine that somebody took is stopped and bills its disk: it is given up, and destroyed."""
    found = harness.provider.offers(replace(ANY, interruptible=True))
    bids = [offer for offer in found if offer.interruptible]
    if harness.name != "vastai":
        assert bids == []
        return
    harness.sandbox.faults.set(Fault.BOOT_STUCK)
    harness.sandbox.faults.set(Fault.OUTBID, value=0.5)
    with pytest.raises(HostUnreachable, match="somebody bid more"):
        renter.reach(renter.rent(offer=bids[0]))


def test_a_machine_that_answers_too_early_is_never_trusted_with_another_key(renter: Renter) -> None:
    """A strange host key is waited out for a while only; nothing is sent to it."""
    renter.harness.sandbox.faults.set(Fault.SSHD_FIRST, value=30)
    hasty = replace(renter, rentals=replace(renter.rentals, patience=replace(QUICK, rekey_s=0.5)))
    with pytest.raises(HostKeyMismatch):
        hasty.reach(hasty.rent())


# The end: the fixture asserts that it comes


@pytest.mark.parametrize(
    ("fault", "value"),
    [
        (Fault.DESTROY_IGNORED, None), (Fault.DESTROY_LAG, 1.0), (Fault.LISTED_AFTER_DESTROY, 1.0),
        (Fault.DESTROY_404_WHILE_ALIVE, None), (Fault.SHORT_PAGES, None),
    ],
)  # fmt: skip
def test_an_end_that_does_not_come_at_once_is_seen_to(renter: Renter, fault: Fault, value: float | None) -> None:
    """A destroy that is ignored, delayed, denied, or lost on a list of many pages: asked for until it is gone."""
    api = renter.harness.provider
    others = [api.create(offer, launch(f"other-{number}")) for number, offer in enumerate(api.offers(ANY)[-2:])]
    held = renter.rent()
    renter.harness.sandbox.faults.set(fault, value=value, times=2)
    renter.end()
    assert held.ref not in renter.harness.machines()
    assert set(renter.harness.machines()) == {one.ref for one in others}
    for one in others:
        api.destroy(one.ref)


def test_a_machine_that_accepts_and_says_nothing_is_given_up(renter: Renter) -> None:
    """Its port is open, and its login freezes: the boot's patience ends that as well."""
    renter.harness.sandbox.faults.set(Fault.LINK_FROZEN)
    patience = replace(QUICK, boot_s=2, connect_s=0.5)
    waiting = replace(renter, rentals=replace(renter.rentals, patience=patience))
    with pytest.raises(HostUnreachable, match="has not answered for 2 s"):
        waiting.reach(waiting.rent())
    renter.harness.sandbox.faults.clear()


@pytest.mark.parametrize(
    "fault",
    [
        Fault.HTTP_500,
        Fault.HTTP_502,
        Fault.HTTP_429,
        VastFault.RATE_LIMIT_IN_JSON,
        Fault.HTTP_RESET,
        Fault.HTTP_TIMEOUT,
        Fault.HTTP_TRICKLE,
    ],
)
def test_an_end_survives_an_api_that_fails(renter: Renter, fault: Fault) -> None:
    """Every request fails a few times; the rental is confirmed gone all the same."""
    renter.rent()
    renter.harness.sandbox.faults.set(fault, times=3, value=0.1)
    renter.end()
    assert Kind.GONE in renter.kinds()
