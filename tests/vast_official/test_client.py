"""Vast.ai's own client drives the look-alike: what it asks is what it asked of others, and what it prints is true."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.session.world import wait_for
from tests.vast_official.conftest import DATA, Client

from gpurent.model import Offer
from gpurent_providers.vastai import wire
from gpurent_sandbox.faults import Fault

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHWGYlMT8CxcILI user@h"
LOGGED: dict[str, list[dict[str, Any]]] = {}
for line in (DATA / "requests.jsonl").read_text(encoding="utf-8").splitlines():
    LOGGED.setdefault(json.loads(line)["case"], []).append(json.loads(line))

QUERY = (
    "gpu_name=RTX_4090 num_gpus=1 gpu_ram>=24 cpu_ram>=32 duration>=2 cuda_vers>=12.4 reliability>0.98 "
    "geolocation in [US,CA] driver_version>=535.86.05 dph<0.6 direct_port_count>=2 verified=any"
)
CASES: dict[str, tuple[str, ...]] = {
    "search_offers_default": ("search", "offers", "--raw"),
    "search_offers_query": (
        "search", "offers", "--limit", "20", "--storage", "40", "-o", "dph,dlperf_usd-", "--raw",
        QUERY,
    ),
    "search_offers_bid": ("search", "offers", "-b", "gpu_name in [RTX_4090,RTX_3090]", "--raw"),
    "search_offers_reserved": ("search", "offers", "-r", "num_gpus=8", "--raw"),
    "search_offers_nodefault": ("search", "offers", "-n", "num_gpus>=1 datacenter=true", "--raw"),
    "search_offers_new": ("search", "offers", "--new", "num_gpus=1", "--raw"),
    "create_instance_min": ("create", "instance", "OFFER", "--image", "ubuntu:22.04", "--raw"),
    "create_instance_ssh_direct": (
        "create", "instance", "OFFER", "--image", "ubuntu:22.04", "--disk", "20", "--ssh", "--direct", "--label",
        "lbl", "--onstart-cmd", "touch ~/.no_auto_tmux", "--cancel-unavail", "--env",
        "-e A=b -p 8080:8080 -p 9000:9000/udp -h host1", "--raw",
    ),
    "create_instance_bid": (
        "create", "instance", "OFFER", "--image", "ubuntu:22.04", "--disk", "20", "--ssh", "--bid_price", "0.21",
        "--raw",
    ),
    "show_instances_raw": ("show", "instances", "--raw"),
    "show_instances_table": ("show", "instances"),
    "show_instances_filtered": (
        "show", "instances", "--status", "running", "loading", "--label", "lbl", "--limit", "5", "--raw",
    ),
    "show_instance": ("show", "instance", "INSTANCE", "--raw"),
    "ssh_url": ("ssh-url", "INSTANCE"),
    "attach_ssh": ("attach", "ssh", "INSTANCE", KEY),
    "label_instance": ("label", "instance", "INSTANCE", "newlabel"),
    "logs": ("logs", "INSTANCE", "--tail", "100"),
    "reboot_instance": ("reboot", "instance", "INSTANCE"),
    "stop_instance": ("stop", "instance", "INSTANCE"),
    "start_instance": ("start", "instance", "INSTANCE"),
    "show_user": ("show", "user", "--raw"),
    "create_ssh_key": ("create", "ssh-key", KEY),
    "show_ssh_keys": ("show", "ssh-keys", "--raw"),
    "show_invoices_v1_charges": (
        "show", "invoices-v1", "--charges", "-s", "1767225600", "-e", "1769817600", "--limit", "20", "--raw",
    ),
    "show_invoices_v1_invoices": (
        "show", "invoices-v1", "--invoices", "-s", "1767225600", "-e", "1769817600", "--limit", "20", "--raw",
    ),
    "destroy_instance": ("destroy", "instance", "INSTANCE", "-y"),
    "create_instance_args": (
        "create", "instance", "OFFER", "--image", "ubuntu:22.04", "--onstart-cmd", "bash", "--raw", "--args", "-c",
        "sleep infinity",
    ),
    "create_instance_login": (
        "create", "instance", "OFFER", "--image", "ghcr.io/x/y:z", "--login", "-u u -p p ghcr.io", "--user", "root",
        "--ssh", "--direct", "--raw",
    ),
    "create_instance_jupyter": (
        "create", "instance", "OFFER", "--image", "ubuntu:22.04", "--jupyter", "--direct", "--jupyter-lab", "--raw",
    ),
    "launch_instance": (
        "launch", "instance", "-g", "RTX_4090", "-n", "1", "-i", "ubuntu:22.04", "-d", "16", "--ssh", "--direct",
        "--limit", "3", "--raw",
    ),
    "show_instances_quiet": ("show", "instances", "-q"),
    "recycle_instance": ("recycle", "instance", "INSTANCE"),
    "change_bid": ("change", "bid", "BID", "--price", "0.25"),
    "show_deposit": ("show", "deposit", "INSTANCE"),
    "prepay": ("prepay", "instance", "INSTANCE", "10"),
    "detach_ssh": ("detach", "ssh", "INSTANCE", "KEYID"),
    "delete_ssh_key": ("delete", "ssh-key", "KEYID"),
    "stop_instances_bulk": ("stop", "instances", "INSTANCE", "SECOND"),
    "start_instances_bulk": ("start", "instances", "INSTANCE", "SECOND"),
    "destroy_instances": ("destroy", "instances", "INSTANCE", "SECOND", "-y"),
}  # fmt: skip


@pytest.fixture
def emptied(client: Client) -> Iterator[Client]:
    """The client; nothing is rented before and after."""
    yield client
    for held in client.sandbox.market.alive():
        client.sandbox.market.vanish(held.id)


@pytest.fixture
def instance(emptied: Client) -> str:
    """An instance that the client itself has rented, running."""
    (offer, *_) = emptied.json("search", "offers", "-o", "dph")
    made = emptied.json(
        "create",
        "instance",
        str(offer["id"]),
        "--image",
        "ubuntu:22.04",
        "--disk",
        "20",
        "--ssh",
        "--direct",
        "--cancel-unavail",
        "--label",
        "lbl",
    )
    assert made["success"]
    wait_for(lambda: all(held.port for held in emptied.sandbox.market.alive()), "the boot", 20)
    return str(made["new_contract"])


def ask(client: Client, method: str, path: str, body: object = None) -> Any:
    """What a case needs before it begins is asked for by ourselves: the client takes seconds to start."""
    headers = {"Authorization": f"Bearer {client.sandbox.account_key}"}
    reply = httpx.request(method, f"{client.sandbox.url}/api/v0/{path}", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


def offer(client: Client) -> str:
    order = {"order": [["dph_total", "asc"]], "num_gpus": {"eq": 1}}
    return str(ask(client, "POST", "bundles/", order)["offers"][0]["id"])


def rent(client: Client, **more: object) -> str:
    """An instance that runs."""
    order = {"image": "ubuntu:22.04", "disk": 20, "runtype": "ssh_direct", "label": "lbl", "cancel_unavail": True}
    made = ask(client, "PUT", f"asks/{offer(client)}/", {**order, **more})
    wait_for(lambda: all(held.port for held in client.sandbox.market.alive()), "the boot", 20)
    return str(made["new_contract"])


def key_of(client: Client, instance: str) -> str:
    """The number of a key that the account has, or one of its instances."""
    if not instance:
        return str(ask(client, "POST", "ssh/", {"ssh_key": KEY})["key"]["id"])
    ask(client, "POST", f"instances/{instance}/ssh/", {"ssh_key": f"{KEY}-{instance}"})
    *_, key = json.loads(ask(client, "GET", f"instances/{instance}/ssh/")["ssh_keys"])
    return str(key["id"])


MADE: dict[str, Callable[[Client, dict[str, str]], str]] = {
    "OFFER": lambda client, _: offer(client),
    "INSTANCE": lambda client, _: rent(client),
    "SECOND": lambda client, _: rent(client),
    "BID": lambda client, _: rent(client, price=0.2),
    "KEYID": lambda client, made: key_of(client, made.get("INSTANCE", "")),
}
"""What a case needs, in the order of its words."""


def plain(request: dict[str, Any]) -> dict[str, Any]:
    """A request without the numbers that differ from one service to another."""
    path = re.sub(r"/\d+/", "/N/", re.sub(r"^/(vast-results/\w+|result)\.log$", "/RESULT", request["path"]))
    body = json.loads(re.sub(r"\b\d{8,}\b", "0", json.dumps(request["body"])))
    return {"method": request["method"], "path": path, "query": request["query"], "body": body}


def told_once(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A result is fetched again and again until it is there: counted once."""
    return [one for number, one in enumerate(requests) if number == 0 or one != requests[number - 1]]


def test_every_logged_case_is_covered() -> None:
    """None of them is left out in silence."""
    assert set(CASES) == set(LOGGED)


@pytest.mark.parametrize("case", CASES)
def test_the_client_asks_what_it_asked_before(emptied: Client, case: str) -> None:
    """Method, path, query and body are those that were logged from the same client elsewhere; there are no others."""
    made: dict[str, str] = {}
    for word in CASES[case]:
        if word in MADE:
            made[word] = MADE[word](emptied, made)
    asked = told_once([plain(one) for one in emptied.requests(*[made.get(one, one) for one in CASES[case]])])
    logged = [plain(one) for one in LOGGED[case]]
    if case == "search_offers_default":
        logged = [one for one in logged if not one["path"].endswith("/users/current")]  # of a first run only
    assert asked == logged


def test_a_bid_can_be_raised(emptied: Client) -> None:
    """What is bid is what the instance then costs."""
    bid = rent(emptied, price=0.2)
    emptied.run("change", "bid", bid, "--price", "0.25")
    assert emptied.json("show", "instance", bid)["dph_base"] == 0.25
    assert "below the minimum" in emptied.run("change", "bid", bid, "--price", "0.001", "--raw").stderr


def test_offers_as_the_client_sees_them_are_offers_to_us(client: Client) -> None:
    """A row that the client prints is read by our own wire, at the same price."""
    rows = client.json("search", "offers", "num_gpus=1 gpu_name=RTX_4090 reliability>0.95", "--storage", "20")
    found = [wire.offer(row) for row in rows]
    assert found and all(isinstance(one, Offer) for one in found)
    for row, one in zip(rows, found, strict=True):
        assert one is not None and row["gpu_name"] == one.gpu == "RTX 4090"
        assert float(one.price.hourly(20).decimal()) == pytest.approx(row["dph_total"], abs=2e-6)


def test_an_instance_lives_and_ends_by_the_client_s_commands(client: Client, instance: str) -> None:
    """Shown, found at its SSH address, let in with a key, logged, destroyed: and the market agrees each time."""
    (held,) = client.sandbox.market.alive()
    shown = client.json("show", "instance", instance)
    assert (shown["id"], shown["label"], shown["actual_status"]) == (int(instance), "lbl", "running")
    assert [one["id"] for one in client.json("show", "instances")] == [int(instance)]
    assert client.run("ssh-url", instance).stdout.strip() == f"ssh://root@127.0.0.1:{held.port}"
    assert client.run("attach", "ssh", instance, KEY).returncode == 0
    assert KEY in client.sandbox.market.admitted(held.id)
    assert "startup ended" in client.run("logs", instance).stdout
    client.run("destroy", "instance", instance, "-y")
    assert client.sandbox.market.alive() == []
    assert client.json("show", "instances") == []


def test_the_user_and_the_charges_are_shown(client: Client, instance: str) -> None:
    """Credit, and a row for the instance."""
    assert client.json("show", "user")["credit"] > 0
    now = int(time.time())
    span = ("-s", str(now - 86_400), "-e", str(now + 86_400), "--limit", "100")
    assert f"instance-{instance}" in client.run("show", "invoices-v1", "--charges", *span, "--raw").stdout


def test_refusals_come_in_words_that_the_client_understands(client: Client) -> None:
    """``no_such_ask`` reaches its standard error, and a 429 is tried again three times."""
    refused = client.run("create", "instance", "20999999", "--image", "ubuntu:22.04", "--raw")
    assert "no_such_ask" in refused.stderr and client.sandbox.market.alive() == []
    client.sandbox.faults.set(Fault.HTTP_429, times=2, value=0, on="GET /api/v1/instances/")
    assert client.json("show", "instances") == []
    client.sandbox.faults.clear()


def test_the_client_breaks_no_rule_that_we_know(client: Client) -> None:
    """Every request of all these commands was one that the look-alike takes for right."""
    assert [(one.path, one.violations) for one in client.sandbox.journal.entries() if one.violations] == []
