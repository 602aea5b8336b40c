"""Vast.ai's replies as values: what is known of them is read, and nothing that a service may send does any harm."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.vast.samples import DATA, REPLIES, row

from gpurent.errors import BadReply
from gpurent.model import Endpoint, Launch, Need, Phase, Price
from gpurent.money import ZERO, Usd
from gpurent_providers.vastai import bills, wire

STATES: dict[str, Any] = json.loads((DATA / "states.json").read_text(encoding="utf-8"))
LAUNCH = Launch("gpurent-x-1", "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime", 20, "ssh-ed25519 AAAA me", "echo on")


# Offers


def test_an_offer_has_the_four_prices_that_vast_bills() -> None:
    """GPU by the hour, disk by GB and month, traffic by GB in either direction; together they are dph_total."""
    shown = row()
    found = wire.offer(shown)
    assert found is not None
    names = ("dph_base", "storage_cost", "inet_down_cost", "inet_up_cost")
    assert found.price == Price(*(Usd.from_wire(shown[name]) for name in names))
    assert found.price.hourly(20) == Usd.from_wire(shown["dph_total"])
    assert (found.gpu, found.vram_mb, found.machine_id, found.cuda) == ("RTX 4090", 24564, "5001", (12, 8))
    assert (found.trusted, found.interruptible, found.region) == (False, False, "SE")


def test_an_offer_says_what_goes_with_its_gpu() -> None:
    """Of the machine's main memory only the GPU's share; strange values are unknown ones."""
    shown = wire.offer(row(compute_cap=860, cpu_ram=128_000, gpu_frac=0.25, cpu_cores_effective=12.0))
    assert shown is not None
    assert (shown.capability, shown.ram_mb, shown.cpus) == ((8, 6), 30_517, 12.0)
    strange = wire.offer(row(compute_cap="new", cpu_ram=128_000, gpu_frac=7, cpu_cores_effective=None))
    assert strange is not None
    assert (strange.capability, strange.ram_mb, strange.cpus) == (None, None, None)


def test_a_bid_is_an_offer_at_what_we_would_bid() -> None:
    """A quarter above the floor, and less reliable than the same machine on demand."""
    shown = copy.deepcopy(REPLIES["bids"]["offers"][0])
    found = wire.offer(shown)
    assert found is not None and found.interruptible
    assert found.price.gpu_hour == Usd.from_wire(shown["min_bid"]).scaled(125, 100)
    assert found.reliability == pytest.approx(0.8 * shown["reliability2"])
    assert wire.create_body(wire.Ask.parse(found.id), LAUNCH)["price"] == float(found.price.gpu_hour.decimal())


@pytest.mark.parametrize(
    "change",
    [{"dph_base": None}, {"dph_base": 0}, {"storage_cost": None}, {"inet_up_cost": "free"}, {"gpu_ram": "24 GB"},
     {"gpu_arch": "amd"}, {"num_gpus": 2}, {"inet_down": None}, {"inet_up": 2.0}, {"disk_space": 4}, {"id": True},
     {"gpu_name": "\x1b[31m"}, {"dph_base": float("nan")}],
)  # fmt: skip
def test_an_offer_that_lacks_what_a_decision_needs_is_left_out(change: dict[str, object]) -> None:
    """No price, no memory, another maker, several GPUs, or a link too slow to be of use."""
    assert wire.offer(row(**change)) is None


def test_machines_that_cannot_be_reached_or_are_not_verified_do_not_fit() -> None:
    """Filters are not always honoured, so a row is judged here again."""
    assert wire.fits(row(), unverified=False)
    assert not wire.fits(row(direct_port_count=0), unverified=False)
    assert not wire.fits(row(rentable=False), unverified=False)
    assert not wire.fits(row(verification="deverified"), unverified=False)
    assert wire.fits(row(verification="unverified"), unverified=True)


def test_a_gpu_is_asked_for_by_its_exact_names() -> None:
    """``4090`` means both 4090s and no other card; a service that tells no names is asked for everything."""
    assert wire.matching(REPLIES["names"], Need(gpus=("4090",))) == ["RTX 4090", "RTX 4090D"]
    assert wire.matching(REPLIES["names"], Need(gpus=("rtx 3090", "a100"))) == ["A100 PCIE", "RTX 3090"]
    assert wire.matching({"gpu_names": None}, Need(gpus=("4090",))) is None


@given(number=st.integers(1, 10**12), bid=st.none() | st.integers(1, 10**9))
def test_an_offers_id_holds_all_that_create_needs(number: int, bid: int | None) -> None:
    """Written and read back."""
    ask = wire.Ask(number, None if bid is None else Usd(bid))
    assert wire.Ask.parse(ask.id) == ask


@pytest.mark.parametrize("text", ["", "x", "1@", "1@x", "-1", "1 ", "1/2"])
def test_an_id_of_somebody_else_is_refused(text: str) -> None:
    """Nothing but our own ids reaches a path."""
    with pytest.raises(BadReply):
        wire.Ask.parse(text)


# Create


def test_a_create_never_leaves_a_contract_that_waits() -> None:
    """``cancel_unavail`` is said; the label is ours; nothing is sent that Vast.ai does not want."""
    assert wire.create_body(wire.Ask(20000001), LAUNCH) == {
        "client_id": "me",
        "image": LAUNCH.image,
        "disk": 20,
        "label": "gpurent-x-1",
        "runtype": "ssh_direct",
        "onstart": "echo on",
        "env": {},
        "target_state": "running",
        "cancel_unavail": True,
    }


@pytest.mark.parametrize(
    ("value", "ref"),
    [({"new_contract": 30000001}, "30000001"), ({"new_contract": "30000001"}, "30000001"), ({"new_contract": 0}, None),
     ({"new_contract": "../1"}, None), ({"new_contract": True}, None), ({}, None), (None, None)],
)  # fmt: skip
def test_a_contract_is_a_number_however_it_is_written(value: object, ref: str | None) -> None:
    """As a number or as text; anything else names nothing."""
    assert wire.contract(value) == ref


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gone, 404", "gone"), ("gone, message only", "gone"), ("gone, 410", "gone"), ("private", "gone"),
     ("poor", "poor"), ("new account", "poor"), ("key", "auth"), ("login", "auth"), ("second factor", "auth"),
     ("args", ""), ("image", ""), ("moved", ""), ("no instance", "missing")],
)  # fmt: skip
def test_refusals_are_told_apart_by_their_words(name: str, kind: str) -> None:
    """404 alone says nothing; "image not available" is not a lack of capacity."""
    found = wire.problem(REPLIES["problems"][name])
    assert found.known
    assert [one for one in ("gone", "poor", "auth", "missing") if getattr(found, one)] == ([kind] if kind else [])


# Instances


@pytest.mark.parametrize(
    ("state", "phase", "said"),
    [
        ("provisioning", Phase.STARTING, ""), ("created", Phase.STARTING, "Pulling"),
        ("loading", Phase.STARTING, "Pulling"), ("running_proxy_only", Phase.RUNNING, "success"),
        ("bad_image", Phase.STOPPED, "manifest"), ("host_failure", Phase.STOPPED, "CDI"),
        ("exited", Phase.STOPPED, "exited"), ("offline", Phase.STOPPED, "offline"),
        ("no_heartbeat", Phase.STARTING, ""), ("stopped_by_us", Phase.STOPPED, ""),
        ("outbid", Phase.STOPPED, "bid more"),
    ],
)  # fmt: skip
def test_every_state_of_an_instance_has_one_meaning(state: str, phase: Phase, said: str) -> None:
    """What will never run is stopped, with the host's words; a heartbeat that is missing may come back."""
    found = wire.show(STATES[state])
    assert found is not None
    assert (found.phase, said in found.message) == (phase, True)
    assert (found.endpoint is not None) == (phase is Phase.RUNNING)


def test_an_instance_answers_directly_or_through_the_proxy() -> None:
    """Port 22 of the public address, which may end in blanks; without one the proxy, one port up beside Jupyter."""
    running = wire.show(REPLIES["single"])
    assert running is not None and running.endpoint == Endpoint("203.0.113.5", 41022)
    proxied = wire.show(STATES["running_proxy_only"])
    assert proxied is not None and proxied.endpoint == Endpoint("ssh5.vast.ai", 10005)
    jupyter = copy.deepcopy(STATES["running_proxy_only"])
    jupyter["instances"]["image_runtype"] = "jupyter_direc ssh_direc ssh_proxy"
    beside = wire.show(jupyter)
    assert beside is not None and beside.endpoint == Endpoint("ssh5.vast.ai", 10006)


@pytest.mark.parametrize("ports", [None, {}, [], {"22/tcp": None}, {"22/tcp": []}, {"22/tcp": [{"HostPort": "x"}]}])
@pytest.mark.parametrize("address", [None, "", " ", "203.0.113.5 "])
def test_ports_that_are_not_mapped_yet_leave_the_proxy(ports: object, address: object) -> None:
    """However their absence is worded; port numbers come as texts, too."""
    shown = copy.deepcopy(REPLIES["single"])
    shown["instances"] |= {"ports": ports, "public_ipaddr": address, "ssh_host": "ssh5.vast.ai", "ssh_port": "10005"}
    found = wire.show(shown)
    assert found is not None and found.endpoint == Endpoint("ssh5.vast.ai", 10005)


@pytest.mark.parametrize(("port", "usable"), [("65535", True), ("65536", False), (0, False)])
def test_a_port_is_one_that_exists(port: object, usable: bool) -> None:
    """The last one included."""
    shown = copy.deepcopy(REPLIES["single"])
    shown["instances"] |= {"ports": {"22/tcp": [{"HostPort": port}]}, "ssh_host": None}
    found = wire.show(shown)
    assert found is not None and (found.endpoint is not None) == usable


@pytest.mark.parametrize(
    ("said", "over"),
    [
        ("Error response from daemon: toomanyrequests: You have reached your unauthenticated pull rate limit.", True),
        ("Error: pull access denied for someone/private, repository does not exist", True),
        ("failed to register layer: write /usr/lib/x.so: no space left on device", True),
        ("exec /bin/sh: exec format error", True),
        ("3b5e1f: Pulling fs layer", False),
        ("Successfully loaded pytorch/pytorch:latest", False),
    ],
)
def test_a_pull_that_cannot_end_is_not_waited_for(said: str, over: bool) -> None:
    """A registry that refuses, or a full disk, does not change its mind during the boot."""
    one = copy.deepcopy(REPLIES["single"])
    one["instances"] |= {"actual_status": "loading", "status_msg": said}
    found = wire.show(one)
    assert found is not None and found.phase is (Phase.STOPPED if over else Phase.STARTING)
    assert found.message == said


def test_a_message_of_a_host_is_fit_for_a_terminal() -> None:
    """Control sequences of a container's pull never reach a screen."""
    one = copy.deepcopy(REPLIES["single"])
    one["instances"]["status_msg"] = "3b5e: Pull complete\x1b[K\r\n\x07next"
    found = wire.show(one)
    assert found is not None and found.message == r"3b5e: Pull complete \x07next"


def test_null_is_gone_and_anything_else_is_no_answer() -> None:
    """An answer without the key is neither."""
    assert wire.show(REPLIES["gone"]) is None
    with pytest.raises(BadReply):
        wire.show({"success": True})


def test_pages_say_whether_there_are_more() -> None:
    """A refusal in a 200 is not an empty page."""
    page = REPLIES["page"]
    assert wire.page(page) == (page["instances"], None)
    assert wire.page(page | {"next_token": "t"})[1] == "t"
    for broken in ({"success": False, "instances": []}, {"instances": None}, page | {"next_token": 7}):
        with pytest.raises(BadReply):
            wire.page(broken)


# Money


def test_a_bill_is_the_sum_of_an_instance_s_rows() -> None:
    """GPU, disk and both directions of traffic; of another instance nothing."""
    found = bills.bill(REPLIES["charges"]["results"], "30000001")
    assert found is not None and found.until == 1784990000.0
    assert (found.gpu, found.disk) == (Usd.parse("8"), Usd.parse("0.104"))
    assert (found.traffic_in, found.traffic_out, found.final) == (Usd.parse("0.09"), Usd.parse("0.02"), False)
    assert bills.bill(REPLIES["charges"]["results"], "3000000") is None


@given(amounts=st.lists(st.integers(0, 10**9), min_size=1, max_size=6), extra=st.integers(-1000, 10**6))
def test_whatever_a_row_s_parts_say_the_bill_is_what_the_row_says(amounts: list[int], extra: int) -> None:
    """Kinds that nobody knows yet, and rounding, go to the GPU."""
    kinds = ["gpu", "disk", "bwd", "bwu", "new", "gpu"]
    items = [{"type": kind, "amount": amount / 1000} for kind, amount in zip(kinds, amounts, strict=False)]
    whole = sum(amounts) + extra
    found = bills.bill([{"source": "instance-7", "amount": whole / 1000, "end": 5.0, "items": items}], "7")
    assert found is not None and found.total == Usd.from_wire(whole / 1000)


def test_a_bill_with_a_hole_is_no_bill() -> None:
    """An amount or an end is missing."""
    for hole in ({"amount": None}, {"end": None}):
        broken = copy.deepcopy(REPLIES["charges"]["results"])
        broken[0] |= hole
        with pytest.raises(BadReply):
            bills.bill(broken, "30000001")


def test_the_balance_is_the_credit() -> None:
    """``balance`` beside it reads 0."""
    assert bills.balance(REPLIES["user"]) == Usd.parse("12.345678")
    with pytest.raises(BadReply):
        bills.balance({"balance": 3})
    assert bills.balance({"credit": 0.01}) > ZERO
