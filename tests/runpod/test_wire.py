"""RunPod's replies as values: what RunPod publishes is read, and nothing that a service may send does any harm."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurent.errors import BadReply, GpurentError
from gpurent.fields import prose
from gpurent.model import Charges, Endpoint, Instance, Launch, Need, Phase, Price
from gpurent.money import ZERO, Usd
from gpurent_providers.runpod import boot, wire
from gpurent_remote.startup import MAX_BYTES

REPLIES: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "replies.json").read_text(encoding="utf-8"))
LAUNCH = Launch("gpurent-x-1", "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404", 30, "ssh-ed25519 AAAA me\n", ":")
READERS: dict[str, Callable[[Any], object]] = {
    "gpus": lambda value: wire.offers(value, wire.SECURE),
    "created": lambda value: wire.agreed(wire.instance(value), Price(Usd.parse("0.44")), 50),
    "pod": wire.instance,
    "pods": lambda value: [wire.instance(one) for one in wire.page(value)[0] if not wire.ended(one)],
    "bill": lambda value: wire.bill(value, "7h9k2m4n6p"),
    "balance": wire.balance,
    "problems": lambda value: [(wire.problem(one), wire.named_in(one)) for one in value.values()],
}


def changed(name: str, /, **fields: object) -> Any:
    """A published pod with other fields."""
    return copy.deepcopy(REPLIES[name]) | fields


def stocked(*centers: tuple[str, str]) -> dict[str, Any]:
    """The published GPU type, with stock in those data centres."""
    row = copy.deepcopy(REPLIES["gpus"]["gpus"][0])
    row["dataCenters"] = [{"id": name, "name": name, "availability": word} for name, word in centers]
    return {"gpus": [row]}


# What RunPod publishes


def test_a_place_that_runpod_chooses_itself_is_never_left_out() -> None:
    """It would be a whole cloud's stock of one GPU."""
    (offer,) = wire.offers(stocked(), wire.SECURE)
    assert (offer.region, offer.machine_id) == ("", "")


@pytest.mark.parametrize(
    ("gpu_id", "name"),
    [("NVIDIA H100 80GB HBM3", "H100 SXM"), ("NVIDIA A100 80GB PCIe", "A100 PCIe"), ("NVIDIA A40", "A40"),
     ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti"), ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada")],
)  # fmt: skip
def test_a_gpu_has_one_name_in_offers_and_in_pods(gpu_id: str, name: str) -> None:
    """Pods tell the id only; it is compared with what was offered."""
    value = copy.deepcopy(REPLIES["gpus"])
    value["gpus"][0]["id"] = gpu_id
    (offer, *_) = wire.offers(value, wire.SECURE)
    assert offer.gpu == wire.instance(changed("pod", gpu={"id": gpu_id, "count": 1})).gpu == name


def test_a_gpu_type_is_an_offer_for_each_data_centre_with_stock() -> None:
    """Cloud, data centre and GPU are in the id; the disk has RunPod's price; the secure cloud is trusted."""
    (offer,) = wire.offers(REPLIES["gpus"], wire.SECURE)
    assert wire.Place.parse(offer.id) == wire.Place("SECURE", "NVIDIA GeForce RTX 4090", "US-KS-2")
    assert (offer.gpu, offer.region, offer.trusted, offer.gpu_count) == ("RTX 4090", "US-KS-2", True, 1)
    assert offer.machine_id == "SECURE/US-KS-2/NVIDIA GeForce RTX 4090"
    assert offer.price == Price(Usd.parse("0.44"), Usd.parse("0.10"))
    assert 22_000 <= offer.vram_mb <= 24_564
    (cheap,) = wire.offers(REPLIES["gpus"], wire.COMMUNITY)
    assert (cheap.price.gpu_hour, cheap.trusted) == (Usd.parse("0.31"), False)


def test_a_new_pod_starts_and_has_no_endpoint() -> None:
    """The pod that create answers with: named, priced, and not reachable over RunPod's SSH proxy."""
    pod = wire.instance(REPLIES["created"])
    assert (pod.ref, pod.tag, pod.phase, pod.endpoint) == ("7h9k2m4n6p", "pytorch-training", Phase.STARTING, None)
    assert (pod.price.gpu_hour, pod.disk_gb, pod.gpu_count) == (Usd.parse("0.44"), 50, 1)
    assert pod.created_at == 1_780_315_200


def test_a_running_pod_answers_at_its_public_port() -> None:
    """ssh.direct; where that is missing, the mapping of port 22."""
    assert wire.instance(REPLIES["pod"]).endpoint == Endpoint("195.26.233.3", 34446, "root")
    mapped = wire.instance(changed("pod", ssh={"proxy": None, "direct": None}))
    assert mapped.endpoint == Endpoint("195.26.233.3", 34446, "root")
    assert wire.instance(changed("pod", ssh=None, runtime={"uptime": 0, "ports": []})).endpoint is None


@pytest.mark.parametrize(
    ("status", "runtime", "hidden"),
    [
        ("RUNNING", {"uptime": 9, "ports": []}, True),
        ("RUNNING", {"uptime": 0, "ports": []}, False),  # its container has not come up: an image may be on its way
        ("STARTING", {"uptime": 9, "ports": []}, False),
        ("RUNNING", {"uptime": 9, "ports": [{"private": 22, "public": 9, "type": "tcp", "ip": "1.2.3.4"}]}, False),
    ],
)
def test_a_pod_that_runs_without_an_address_is_told_from_one_that_comes_up(
    status: str, runtime: dict[str, object], hidden: bool
) -> None:
    """Usual in the community cloud, and not waited for as long as a boot takes."""
    pod = wire.instance(changed("pod", status=status, ssh={"proxy": None, "direct": None}, runtime=runtime))
    assert pod.hidden == hidden and ("no public address" in pod.message) == hidden


@pytest.mark.parametrize(
    ("status", "phase"),
    [("EXITED", Phase.STOPPED), ("ERROR", Phase.STOPPED), ("STARTING", Phase.STARTING), ("DREAMING", Phase.STARTING)],
)
def test_a_pod_that_does_not_run_has_no_endpoint(status: str, phase: Phase) -> None:
    """A stopped pod may still show the ports that it had."""
    pod = wire.instance(changed("pod", status=status))
    assert (pod.phase, pod.endpoint) == (phase, None)


def test_pages_say_whether_there_are_more() -> None:
    """Without pagination a page is the last one; a page that promises more has to say where."""
    pods = REPLIES["pods"]["pods"]
    assert wire.page(REPLIES["pods"]) == (pods, None)
    assert wire.page({"pods": pods, "pagination": {"nextCursor": "c", "hasNextPage": True}}) == (pods, "c")
    assert wire.page({"pods": [], "pagination": {"nextCursor": "c", "hasNextPage": False}}) == ([], None)
    assert wire.page({"pods": [], "pagination": {"nextCursor": "c"}}) == ([], "c")
    with pytest.raises(BadReply):
        wire.page({"pods": pods, "pagination": {"nextCursor": None, "hasNextPage": True}})


def test_a_bill_counts_everything_that_is_not_disk_to_the_gpu() -> None:
    """The total is what was paid, whatever its parts are called."""
    found = wire.bill(REPLIES["bill"], "7h9k2m4n6p")
    assert found is not None
    assert found == Charges(Usd.parse("11.10"), Usd.parse("1.24"), final=False, until=1_780_358_400)
    assert wire.bill(REPLIES["bill"], "another") is None


def test_the_balance_is_read_or_its_refusal_is_told() -> None:
    """GraphQL answers 200 to everything; its words reach the user."""
    assert wire.balance(REPLIES["balance"]) == Usd.parse("12.345678")
    with pytest.raises(BadReply, match="not authorized"):
        wire.balance(REPLIES["no balance"])


@pytest.mark.parametrize("name", REPLIES["problems"])
def test_every_problem_is_recognised_and_quoted(name: str) -> None:
    """Title or detail makes a problem; the capacity texts are told apart by their words alone."""
    found = wire.problem(REPLIES["problems"][name])
    assert found.known and found.detail
    assert found.no_capacity == name.startswith("capacity")
    assert wire.named_in(REPLIES["problems"][name]) is None


# What is rented


def test_only_single_whole_cuda_gpus_with_price_and_stock_are_offered() -> None:
    """AMD, slices, the sentinel row, price zero and no stock are left out; an unknown word for stock is some stock."""
    row = REPLIES["gpus"]["gpus"][0]
    bad: list[dict[str, object]] = [
        {"id": "unknown"}, {"id": ""}, {"id": "a/b"}, {"manufacturer": "AMD"}, {"availability": "NONE"},
        {"id": "NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 1g.24gb"}, {"price": {"secure": 0}}, {"memory": 0},
        {"price": None}, {"availability": None}, {"price": {"secure": -1}}, {"price": {"secure": True}},
    ]  # fmt: skip
    assert wire.offers({"gpus": [row | one for one in bad]}, wire.SECURE) == []
    assert len(wire.offers({"gpus": [row | {"availability": "PLENTY"}]}, wire.SECURE)) == 1


def test_data_centres_are_few_and_the_best_stocked() -> None:
    """Attempts are few: those of one GPU type must not be used up by one cloud's list of places."""
    places = stocked(("A", "LOW"), ("B", "HIGH"), ("C", "NONE"), ("D", "MEDIUM"), ("E", "HIGH"), ("F", "LOW"))
    found = [offer.region for offer in wire.offers(places, wire.SECURE)]
    assert found == ["B", "E", "D"]
    (anywhere,) = wire.offers(stocked(), wire.SECURE)
    assert wire.Place.parse(anywhere.id).center == ""


def test_a_create_asks_for_exactly_what_was_offered() -> None:
    """One GPU is said explicitly, port 22 is asked for, the key is one line, and the driver must know the CUDA."""
    place = wire.Place("COMMUNITY", "NVIDIA A40", "CA-MTL-1")
    body = wire.create_body(place, LAUNCH, "args")
    assert body == {
        "name": "gpurent-x-1",
        "image": LAUNCH.image,
        "gpu": {"id": "NVIDIA A40", "count": 1, "minCudaVersion": "12.8"},
        "cloud": "COMMUNITY",
        "dataCenterIds": ["CA-MTL-1"],
        "disk": 30,
        "ports": ["22/tcp"],
        "env": {"PUBLIC_KEY": "ssh-ed25519 AAAA me"},
        "args": "args",
        "startSsh": True,
    }
    floor = wire.create_body(place, replace(LAUNCH, min_ram_mb=6500), "args")["gpu"]
    assert isinstance(floor, dict) and floor["minRamPerGpu"] == 7
    assert "dataCenterIds" not in wire.create_body(wire.Place("SECURE", "NVIDIA A40"), LAUNCH, "args")


@pytest.mark.parametrize("name", ["", "SECURE", "SECURE/x", "SECURE/x/", "MOON/x/NVIDIA A40"])
def test_an_offer_of_somebody_else_is_refused(name: str) -> None:
    """An id that is not ours is BadReply."""
    with pytest.raises(BadReply):
        wire.Place.parse(name)


def test_the_startup_script_survives_any_splitter() -> None:
    """Three words, each by itself, far below what a request may hold; decoded, it is the script itself."""
    script = "echo 'a' \"$b\" \\\n" + "x" * (MAX_BYTES - 20)
    given = boot.args(script)
    document = json.loads(given)
    words = document["entrypoint"] + document["cmd"]
    assert words[:2] == ["bash", "-c"] and len(words) == 3 and len(given) < 8192
    packed = re.search(r"echo ([A-Za-z0-9+/=]+) ", words[2])
    assert packed is not None and not set("$`\"'\\") & set(words[2])
    assert base64.b64decode(packed[1]).decode().startswith(script + "\n")


@pytest.mark.parametrize(
    ("cost", "price"),
    [
        (0, Price(Usd.parse("0.44"), Usd.parse("0.10"))),
        (0.44, Price(Usd.parse("0.44"), Usd.parse("0.10"))),
        (0.446, Price(Usd.parse("0.44"), Usd.parse("0.10"))),
        (0.66, Price(Usd.parse("0.66"), Usd.parse("0.10"))),
        (0.40, Price(Usd.parse("0.40"), Usd.parse("0.10"))),
    ],
)
def test_a_pod_costs_what_was_agreed_unless_it_says_otherwise(cost: float, price: Price) -> None:
    """A cost that is not known yet, or that holds the disk, is no other price."""
    made = wire.instance(changed("created", cost=cost))
    assert wire.agreed(made, Price(Usd.parse("0.44"), Usd.parse("0.10")), 50).price == price


def test_later_looks_never_put_the_disk_on_top_of_a_cost_that_may_hold_it() -> None:
    """Else a pod at its agreed price would look dearer than that."""
    price = Price(Usd.parse("0.44"), Usd.parse("0.10"))
    seen = wire.instance(changed("pod", cost=float(price.hourly(50).decimal())))
    assert seen.price.hourly(50) <= price.hourly(50)


# What a service may send


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["RUNNING", "NONE"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, object]:
    """A published reply in which one to three values anywhere are replaced, removed or joined by unknown ones."""
    name = draw(st.sampled_from(sorted(READERS)))
    value = copy.deepcopy(REPLIES[name])
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = value
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
                holder = holder[key]
                continue
            act = draw(st.sampled_from(["replace", "remove", "add"]))
            if act == "add" and isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = draw(JSON)
            elif act == "remove":
                del holder[key]
            else:
                holder[key] = draw(JSON)
            break
    return name, value


@given(mutated())
@settings(max_examples=400, deadline=None)
def test_a_mutated_reply_is_read_or_refused_with_a_typed_error(reply: tuple[str, object]) -> None:
    """Whatever a field turns into, there is a value or BadReply; what is read can be shown and asked for by its ref."""
    name, value = reply
    try:
        found = READERS[name](value)
    except GpurentError as error:
        assert isinstance(error, BadReply)
        return
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, Instance):
            assert one.ref and one.ref.isprintable() and one.price.gpu_hour >= ZERO
            assert one.endpoint is None or 0 < one.endpoint.port < 65536


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_an_arbitrary_reply_is_read_or_refused_with_a_typed_error(value: object) -> None:
    """No JSON whatever makes the mapping fail in any other way; malformed offers are left out, never raised."""
    for name, read in READERS.items():
        if name == "problems":
            assert wire.problem(value).detail.isprintable()
            wire.named_in(value)
            continue
        try:
            read(value)
        except BadReply:
            continue
    for offer in wire.offers({"gpus": [value, *REPLIES["gpus"]["gpus"]]}, wire.SECURE):
        assert Need(disk_gb=1).accepts(offer)


@given(st.sampled_from(["gpus", "pod", "created", "pods"]), st.text(min_size=1, max_size=8), JSON)
@settings(deadline=None)
def test_unknown_fields_change_nothing(name: str, field: str, value: object) -> None:
    """A field that RunPod adds tomorrow is ignored."""
    grown = {f"x-{field}": value, **REPLIES[name]}
    assert READERS[name](grown) == READERS[name](REPLIES[name])


@pytest.mark.parametrize("name", ["pod", "created"])
def test_nulls_in_a_pod_never_raise(name: str) -> None:
    """Everything but the id may be null: the pod is still listed, so it can still be destroyed."""
    for field in REPLIES[name]:
        value = REPLIES[name] | {field: None}
        if field == "id":
            with pytest.raises(BadReply):
                wire.instance(value)
        else:
            assert wire.instance(value).ref == "7h9k2m4n6p"


def test_a_pod_whose_name_or_id_cannot_be_shown_is_not_trusted() -> None:
    """Control characters and half characters are no names: an id with one refuses the listing."""
    assert wire.instance(changed("pod", name="a\x1b[2Jb")).tag == ""
    for ref in ("\ud800", "a\nb", "\x00"):
        with pytest.raises(BadReply):
            wire.instance(changed("pod", id=ref))
    assert prose("a\x1b[31m\nb") == "a b"
