"""Vast.ai's own client drives the look-alike: what it asks is what it asked of others, and what it prints is true."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.session.world import wait_for
from tests.vast_official.conftest import DATA, Client

from gpurent.model import Offer
from gpurent.sandbox.faults import Fault
from gpurent_providers.vastai import wire

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
}  # fmt: skip


@pytest.fixture
def instance(client: Client) -> Iterator[str]:
    """An instance that the client itself has rented, running."""
    (offer, *_) = client.json("search", "offers", "-o", "dph")
    made = client.json(
        "create", "instance", str(offer["id"]), "--image", "ubuntu:22.04", "--disk", "20", "--ssh", "--direct",
        "--cancel-unavail", "--label", "lbl",
    )  # fmt: skip
    assert made["success"]
    wait_for(lambda: all(held.port for held in client.sandbox.market.alive()), "the boot", 20)
    yield str(made["new_contract"])
    for held in client.sandbox.market.alive():
        client.sandbox.market.vanish(held.id)


def plain(request: dict[str, Any]) -> dict[str, Any]:
    """A request without the numbers that differ from one service to another."""
    return {**request, "path": re.sub(r"/\d{6,}/", "/N/", request["path"])}


def test_every_logged_case_is_covered() -> None:
    """None of them is left out in silence."""
    assert set(CASES) == set(LOGGED)


@pytest.mark.parametrize("case", CASES)
def test_the_client_asks_what_it_asked_before(client: Client, case: str, request: pytest.FixtureRequest) -> None:
    """Method, path, query and body are those that were logged from the same client elsewhere."""
    instance = request.getfixturevalue("instance") if "INSTANCE" in CASES[case] else ""
    number = str(client.json("search", "offers", "-o", "dph-")[0]["id"]) if "OFFER" in CASES[case] else ""
    arguments = [{"OFFER": number, "INSTANCE": instance}.get(one, one) for one in CASES[case]]
    asked = [plain(one) for one in client.requests(*arguments)]
    for logged in LOGGED[case]:
        if case == "search_offers_default" and logged["path"].endswith("/users/current"):
            continue  # of a first run only
        wanted = plain({key: logged[key] for key in ("method", "path", "query", "body")})
        assert wanted in asked
    for held in client.sandbox.market.alive():
        client.sandbox.market.vanish(held.id)


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
    span = ("-s", str(now - 86_400), "-e", str(now + 86_400))
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
