"""The look-alike of Vast.ai beyond what our own adapter asks of it: ports, container arguments, bids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.session.world import wait_for
from tests.vast.harness import machines

from gpurent_sandbox.server import Sandbox

BODY: dict[str, Any] = {"image": "ubuntu:22.04", "disk": 20, "runtype": "ssh_direct", "cancel_unavail": True}
OPENED = {"-p 8080:8080": "1", "-p 9000:9000/udp": "1", "-p 70001:70001": "1", "TOKEN": "x"}


class Client:
    """Requests with the account's key."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.http = httpx.Client(
            base_url=f"{sandbox.url}/api/v0/", headers={"Authorization": f"Bearer {sandbox.account_key}"}
        )

    def offers(self, kind: str = "on-demand") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.post("bundles/", json={"type": kind}).json()["offers"]
        return sorted(found, key=lambda one: -one["direct_port_count"])

    def rent(self, *, slash: str = "/", offer: dict[str, Any] | None = None, **more: object) -> httpx.Response:
        return self.http.put(f"asks/{(offer or self.offers()[0])['id']}{slash}", json={**BODY, **more})

    def running(self, **more: Any) -> dict[str, Any]:
        made = self.rent(**more)
        assert made.status_code == 200, made.text
        number = made.json()["new_contract"]
        wait_for(lambda: self.look(number)["actual_status"] == "running", "the boot", 20)
        return self.look(number)

    def look(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"instances/{number}/").json()["instances"]
        return found


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(boot_s=0.2, seed=1, machines=machines(12)) as running:
        yield running


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[Client]:
    made = Client(sandbox)
    yield made
    made.http.close()
    for held in sandbox.market.alive():
        sandbox.market.vanish(held.id)


def test_ports_that_the_environment_opens_are_shown_beside_22(client: Client, sandbox: Sandbox) -> None:
    """What is outside is the service's choice; from 70000 on it is the same inside. The container is told."""
    shown = client.running(env=OPENED)
    outside = {name: int(both[0]["HostPort"]) for name, both in shown["ports"].items()}
    same = outside[next(name for name in outside if name not in ("22/tcp", "8080/tcp", "9000/udp"))]
    assert set(outside) == {"22/tcp", "8080/tcp", "9000/udp", f"{same}/tcp"} and len(set(outside.values())) == 4
    (held,) = sandbox.market.alive()
    told = {name: value for name, value in held.injected.items() if name.startswith("VAST_")}
    assert told == {
        "VAST_CONTAINERLABEL": f"C.{shown['id']}",
        "VAST_TCP_PORT_8080": str(outside["8080/tcp"]),
        "VAST_UDP_PORT_9000": str(outside["9000/udp"]),
        "VAST_TCP_PORT_70001": str(same),
    }
    assert held.order.env == {"TOKEN": "x"} and ["TOKEN", "x"] in shown["extra_env"]


@pytest.mark.parametrize(("env", "names"), [(OPENED, 3), ({}, 0)])
def test_container_arguments_bring_no_port_22(client: Client, env: dict[str, str], names: int) -> None:
    """A client that brings its own sshd opens a port for it."""
    shown = client.running(runtype="args", args=["sleep", "9"], env=env)
    assert len(shown["ports"]) == names and "22/tcp" not in shown["ports"]


@pytest.mark.parametrize(
    "env", [{"-p 80": "1"}, {"-p x:y": "1"}, {"-p": "80:80"}, {f"-p {n}:{n}": "1" for n in range(1, 66)}]
)
def test_options_that_open_no_port_are_refused(client: Client, env: dict[str, str]) -> None:
    """400, and nothing was made."""
    reply = client.rent(env=env)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_args") and client.sandbox.market.alive() == []


@pytest.mark.parametrize("slash", ["/", ""])
def test_an_offer_is_taken_with_and_without_a_slash(client: Client, slash: str) -> None:
    """Clients write both."""
    assert client.rent(slash=slash).json()["success"] is True


def test_a_price_makes_a_bid_and_its_absence_a_rental_on_demand(client: Client) -> None:
    """Whatever search the offer came from; a bid is what is paid for the GPU."""
    offer = client.offers("bid")[0]
    bid = round(offer["min_bid"] * 1.1, 6)
    shown = client.running(offer=offer, price=bid)
    assert shown["is_bid"] is True and shown["dph_base"] == pytest.approx(bid)
    other = client.offers("bid")[0]
    plain = client.running(offer=other, price=None)
    assert plain["is_bid"] is False and plain["dph_base"] > other["min_bid"]


@pytest.mark.parametrize(
    ("share", "price", "code"),
    [(0.9, None, "invalid_args"), (None, 0.0005, "invalid_price"), (None, 129, "invalid_price")],
)
def test_a_bid_that_cannot_win_makes_nothing(
    client: Client, share: float | None, price: float | None, code: str
) -> None:
    """Below the machine's floor, or beyond what the service takes for a price."""
    offer = client.offers("bid")[0]
    reply = client.rent(offer=offer, price=price if share is None else offer["min_bid"] * share)
    assert (reply.status_code, reply.json()["error"]) == (400, code) and client.sandbox.market.alive() == []
