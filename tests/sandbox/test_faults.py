"""Every fault that can be ordered can be seen, and keys open what they should and no more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import paramiko
import pytest
from tests.sandbox.conftest import Customer, eventually

from gpurent_sandbox.address import discover
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.processes import processes_under


def refs(customer: Customer) -> list[str]:
    return [item["id"] for item in customer.api.get("/v1/instances").json()["instances"]]


def _is_down(transport: paramiko.Transport) -> bool:
    return not transport.is_active()


def test_a_lost_reply_leaves_an_instance(customer: Customer) -> None:
    """create_reply_lost: the connection is cut, the instance is there."""
    customer.sandbox.faults.set(Fault.CREATE_REPLY_LOST)
    with pytest.raises(httpx.RemoteProtocolError):
        customer.rent()
    assert len(refs(customer)) == 1


def test_an_error_reply_names_what_it_made(customer: Customer) -> None:
    """create_error_but_created: a 500 with the id of what exists."""
    customer.sandbox.faults.set(Fault.CREATE_ERROR_BUT_CREATED)
    body = {"offer_id": "m01", "label": "x", "disk_gb": 10, "ssh_public_key": customer.public_key}
    reply = customer.api.post("/v1/instances", json=body)
    assert reply.status_code == 500
    assert [reply.json()["error"]["instance_id"]] == refs(customer)


def test_list_lag_hides_a_new_instance(customer: Customer) -> None:
    """list_lag: it exists, and no listing shows it yet."""
    customer.sandbox.faults.set(Fault.LIST_LAG, value=1000)
    customer.rent()
    assert refs(customer) == []
    assert len(customer.sandbox.truth()) == 1


def test_an_ignored_destroy_leaves_it_alive(customer: Customer) -> None:
    """destroy_ignored: accepted, and nothing happens; the next one works."""
    ref = customer.rent()
    customer.sandbox.faults.set(Fault.DESTROY_IGNORED)
    assert customer.api.delete(f"/v1/instances/{ref}").status_code == 202
    assert refs(customer) == [ref]
    customer.api.delete(f"/v1/instances/{ref}")
    assert refs(customer) == []


def test_a_false_404(customer: Customer) -> None:
    """get_404_while_alive: one look-up denies what lives."""
    ref = customer.rent()
    customer.sandbox.faults.set(Fault.GET_404_WHILE_ALIVE)
    assert [customer.api.get(f"/v1/instances/{ref}").status_code for _ in range(2)] == [404, 200]


@pytest.mark.parametrize(("fault", "status"), [(Fault.HTTP_500, 500), (Fault.HTTP_429, 429)])
def test_http_errors_strike_as_often_as_ordered(customer: Customer, fault: Fault, status: int) -> None:
    """http_500, http_429: the next two requests, on the chosen path only."""
    customer.sandbox.faults.set(fault, times=2, value=3, on="GET /v1/balance")
    assert customer.api.get("/v1/offers").status_code == 200
    replies = [customer.api.get("/v1/balance") for _ in range(3)]
    assert [reply.status_code for reply in replies] == [status, status, 200]
    assert replies[0].headers.get("retry-after") == ("3" if status == 429 else None)


def test_hang_reset_and_garbage(customer: Customer) -> None:
    """http_timeout, http_reset, garbage_reply."""
    customer.sandbox.faults.set(Fault.HTTP_TIMEOUT)
    with pytest.raises(httpx.ReadTimeout):
        customer.api.get("/v1/offers", timeout=0.2)
    customer.sandbox.faults.set(Fault.HTTP_RESET)
    with pytest.raises(httpx.RemoteProtocolError):
        customer.api.get("/v1/offers")
    customer.sandbox.faults.set(Fault.GARBAGE_REPLY)
    assert customer.api.get("/v1/offers").text.startswith("<!doctype html>")


def test_a_stuck_boot_never_runs(customer: Customer) -> None:
    """boot_stuck: loading for ever."""
    customer.sandbox.faults.set(Fault.BOOT_STUCK)
    ref = customer.rent()
    time.sleep(0.3)
    assert customer.api.get(f"/v1/instances/{ref}").json()["instance"]["state"] == "loading"


def test_running_without_sshd(customer: Customer) -> None:
    """no_sshd: an endpoint at which nothing listens."""
    customer.sandbox.faults.set(Fault.NO_SSHD)
    port = customer.port(customer.rent())
    with pytest.raises(OSError):
        customer.try_login(port)


def test_sshd_that_refuses_the_right_key_at_first(customer: Customer) -> None:
    """sshd_refuses_key_for: refused, then admitted."""
    customer.sandbox.faults.set(Fault.SSHD_REFUSES_KEY_FOR, value=5)
    ref = customer.rent()
    port = customer.port(ref)
    eventually(lambda: bool(customer.sandbox._hosts and customer.sandbox._hosts.live[ref].sshd_since))
    with pytest.raises(paramiko.AuthenticationException):
        customer.try_login(port)
    customer.login(ref)


def test_a_host_that_vanishes_takes_its_processes_along(customer: Customer) -> None:
    """host_vanishes: unlisted, and no process left."""
    customer.sandbox.faults.set(Fault.HOST_VANISHES, value=0.5)
    customer.rent(startup="setsid sleep 1000 & sleep 1000")
    eventually(lambda: customer.sandbox.truth() == [])
    assert refs(customer) == []


def test_a_dearer_instance_says_so(customer: Customer) -> None:
    """wrong_price: half as much again."""
    offer = customer.api.get("/v1/offers").json()["offers"][0]
    customer.sandbox.faults.set(Fault.WRONG_PRICE)
    ref = customer.rent()
    price = customer.api.get(f"/v1/instances/{ref}").json()["instance"]["price"]["gpu_hour"]
    assert float(price) == pytest.approx(1.5 * float(offer["price"]["gpu_hour"]))


def test_ssh_is_cut_now_or_after_some_bytes(customer: Customer) -> None:
    """drop_ssh: live connections break; a new one works."""
    ref = customer.rent()
    for value in (None, 1_000_000):
        client = customer.login(ref)
        transport = client.get_transport()
        assert transport is not None
        customer.sandbox.faults.set(Fault.DROP_SSH, value=value)
        if value:
            sftp = client.open_sftp()
            with pytest.raises((OSError, EOFError, paramiko.SSHException)), sftp.open("x", "wb") as file:
                file.write(bytes(3_000_000))
        eventually(partial(_is_down, transport))
    assert customer.run(customer.login(ref), "echo back")[1] == "back\n"


def test_a_slow_link_takes_its_time(customer: Customer) -> None:
    """slow_link: 100 kB at 200 kB/s take at least a third of a second."""
    client = customer.login(customer.rent())
    customer.sandbox.faults.set(Fault.SLOW_LINK, value=200_000)
    before = time.monotonic()
    assert len(customer.run(client, "head -c 100000 /dev/zero")[1]) == 100_000
    assert time.monotonic() - before > 0.3


def test_faults_are_set_over_the_api_with_the_control_key_only(customer: Customer) -> None:
    """PUT /control/faults replaces all rules; the account key does not open it."""
    rules = {"rules": [{"fault": "http_500", "times": 1}]}
    assert customer.api.put("/control/faults", json=rules).status_code == 401
    control = {"Authorization": f"Bearer {customer.sandbox.control_key}"}
    assert customer.api.put("/control/faults", json=rules, headers=control).status_code == 200
    assert customer.api.get("/v1/balance").status_code == 500
    assert customer.api.get("/v1/balance").json() == {"balance": "100.000000"}


def test_an_instances_key_opens_nothing_else(customer: Customer) -> None:
    """The key that lies on the host looks at and destroys its own instance; everything else is refused."""
    mine, other = customer.rent(), customer.rent()
    key = customer.sandbox.market.get(mine).key
    own = {"Authorization": f"Bearer {key}"}
    assert customer.api.get(f"/v1/instances/{mine}", headers=own).status_code == 200
    for method, path in (
        ("GET", f"/v1/instances/{other}"),
        ("DELETE", f"/v1/instances/{other}"),
        ("GET", "/v1/instances"),
        ("POST", "/v1/instances"),
        ("GET", "/v1/balance"),
        ("GET", "/v1/offers"),
        ("GET", f"/v1/instances/{mine}/charges"),
    ):
        assert customer.api.request(method, path, headers=own).status_code == 403, (method, path)
    assert customer.api.delete(f"/v1/instances/{mine}", headers=own).status_code == 202
    assert refs(customer) == [other]
    assert customer.api.get(f"/v1/instances/{mine}", headers=own).status_code == 401
    assert customer.api.get("/v1/offers", headers={"Authorization": ""}).status_code == 401


def test_refusals_are_json(customer: Customer) -> None:
    """404, 409 and 400 carry a code and a message."""
    body = {"offer_id": "m01", "label": "x", "disk_gb": 10, "ssh_public_key": "k"}
    assert customer.api.post("/v1/instances", json=body).status_code == 201
    taken = customer.api.post("/v1/instances", json=body)
    large = customer.api.post("/v1/instances", json={**body, "offer_id": "m02", "disk_gb": 10**6})
    unknown = customer.api.get("/v1/instances/nope")
    strange = customer.api.post("/v1/instances", json={**body, "colour": "red"})
    codes = [(reply.status_code, reply.json()["error"]["code"]) for reply in (taken, large, unknown, strange)]
    assert codes == [(409, "offer_gone"), (400, "bad_request"), (404, "not_found"), (400, "bad_request")]


def test_the_journal_holds_every_request_and_no_key(customer: Customer) -> None:
    """Method, path and status in memory and on disk; keys nowhere."""
    customer.rent()
    entries = customer.sandbox.journal.entries("POST", "/v1/instances")
    assert [(entry.method, entry.status) for entry in entries] == [("POST", 201)]
    text = (customer.sandbox.state_dir / "journal.jsonl").read_text()
    assert json.loads(text.splitlines()[-1])["path"] == "/v1/instances"
    assert customer.sandbox.account_key not in text


def test_a_killed_sandbox_leaves_no_process(tmp_path: Path) -> None:
    """kill -9 of the sandbox: its janitor kills every process of every host, and nobody finds it running."""
    program = (
        "import sys; from pathlib import Path; from gpurent_sandbox.server import run_forever; "
        "run_forever(port=0, state_dir=Path(sys.argv[1]))"
    )
    server = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    eventually(lambda: discover(tmp_path) is not None)
    address = discover(tmp_path)
    assert address is not None
    headers = {"Authorization": f"Bearer {address.account_key}"}
    body = {"offer_id": "m01", "label": "x", "disk_gb": 10, "ssh_public_key": "k", "startup": "setsid sleep 1000 &"}
    assert httpx.post(f"{address.url}/v1/instances", json=body, headers=headers, trust_env=False).status_code == 201
    eventually(lambda: len(processes_under(tmp_path / "hosts")) > 0)
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    eventually(lambda: processes_under(tmp_path / "hosts") == [])
    assert discover(tmp_path) is None
