"""REST v2 of the look-alike beyond what our own adapter asks of it, after the documentation of autumn 2026."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.session.world import wait_for

from gpurent_providers.runpod import boot
from gpurent_sandbox.runpod.pods import Command, command_of
from gpurent_sandbox.server import Sandbox

GPU = "NVIDIA GeForce RTX 4090"
CENTER = "EU-NL-1"
"""Where the secure one of them stands."""
BODY: dict[str, Any] = {
    "name": "one",
    "image": "runpod/pytorch:1.0",
    "gpu": {"id": GPU, "count": 1},
    "ports": ["22/tcp"],
}
MARK = 'touch "$GPURENT_ROOT/var/sshd.wanted"'
"""What makes a host of the sandbox start its sshd."""


class Client:
    """Requests with the account's key."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.http = httpx.Client(
            base_url=sandbox.url, headers={"Authorization": f"Bearer {sandbox.account_key}"}, trust_env=False
        )

    def __call__(self, method: str, path: str, body: object = None) -> httpx.Response:
        return self.http.request(method, f"/v2/{path}", json=body)

    def made(self, path: str, body: object) -> Any:
        reply = self("POST", path, body)
        assert reply.status_code == 201, reply.text
        return reply.json()

    def refused(self, body: object) -> tuple[int, str]:
        reply = self("POST", "pods", body)
        assert reply.status_code >= 400 and self.sandbox.market.alive() == [], reply.text
        return reply.status_code, reply.json()["detail"]

    def answers(self, pod: str) -> bool:
        return self("GET", f"pods/{pod}").json()["ssh"]["direct"] is not None

    def root(self, pod: str) -> Path:
        return self.sandbox.state_dir / "hosts" / f"i-{pod}"

    def started(self, pod: str) -> bool:
        log = self.root(pod) / "var/startup.log"
        return log.is_file() and "[startup ended" in log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(boot_s=0.2, seed=3) as running:
        yield running


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[Client]:
    made = Client(sandbox)
    yield made
    made.http.close()
    for held in sandbox.market.alive():
        sandbox.market.vanish(held.id)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, Command()),
        ({"args": ""}, Command()),
        ({"args": "sleep 'a b'"}, Command(cmd=("sleep", "a b"))),
        ({"args": '{"cmd": ["a b"]}'}, Command(cmd=("a b",))),
        ({"args": ' {"entrypoint": ["sh"], "cmd": ["-c", "x"]}'}, Command(("sh",), ("-c", "x"))),
        ({"cmd": ["sleep", "1"]}, Command(cmd=("sleep", "1"))),
        ({"entrypoint": ["sh", "-c"], "cmd": ["x"]}, Command(("sh", "-c"), ("x",))),
        ({"entrypoint": []}, Command(entrypoint=())),
    ],
)
def test_a_command_is_text_json_or_fields_of_its_own(body: dict[str, Any], words: Command) -> None:
    """One meaning for all three ways to say it."""
    assert command_of(body) == words


@pytest.mark.parametrize(
    "body",
    [{"args": "'"}, {"args": '{"cmd": "x"}'}, {"args": '{"cmd": [], "user": "a"}'}, {"args": "x", "cmd": ["y"]}],
)
def test_a_command_that_says_nothing_clear_is_refused(client: Client, body: dict[str, Any]) -> None:
    """400, and no pod."""
    status, why = client.refused({**BODY, **body})
    assert status == 400 and why.startswith("args cannot be read")


@pytest.mark.parametrize(
    "more",
    [
        {"entrypoint": ["bash", "-c"], "cmd": [MARK]},
        {"args": json.dumps({"entrypoint": ["bash", "-c"], "cmd": [MARK]})},
        {"args": boot.args(MARK)},
    ],
    ids=["fields", "json", "ours"],
)
def test_exec_form_overrides_the_entry_point_of_an_image(client: Client, more: dict[str, Any]) -> None:
    """An image of a server takes every command for its options; an entry point of our own is asked by nobody."""
    pod = client.made("pods", {**BODY, "image": "vllm/vllm-openai:v1", **more})["id"]
    wait_for(lambda: client.answers(pod), "its address", 20)
    wait_for(lambda: client.started(pod) and (client.root(pod) / "var/sshd.wanted").exists(), "our command", 20)


def test_a_bare_command_is_handed_to_the_entry_point(client: Client) -> None:
    """And is not a command to it."""
    pod = client.made("pods", {**BODY, "image": "vllm/vllm-openai:v1", "args": f"bash -c '{MARK}'"})["id"]
    wait_for(lambda: client.answers(pod) and client.started(pod), "the end of its command", 20)
    assert "unrecognized arguments" in (client.root(pod) / "var/startup.log").read_text(encoding="utf-8")
    assert not (client.root(pod) / "var/sshd.wanted").exists()


def test_fields_are_shown_again_and_a_pods_gpu_says_what_goes_with_it(client: Client) -> None:
    """``vcpuCount`` and ``memory`` are always there."""
    shown = client.made("pods", {**BODY, "cmd": ["sleep", "9"], "gpu": {**BODY["gpu"], "minRamPerGpu": 60}})
    assert shown["cmd"] == ["sleep", "9"] and "entrypoint" not in shown and shown["args"] == ""
    assert shown["gpu"] == {"id": GPU, "count": 1, "vcpuCount": 16, "memory": 62}


@pytest.mark.parametrize("more", [{"minRamPerGpu": 63}, {"minVcpuCountPerGpu": 17}])
def test_a_machine_with_less_than_was_asked_for_is_none(client: Client, more: dict[str, int]) -> None:
    """Main memory and CPU threads by GPU."""
    status, why = client.refused({**BODY, "gpu": {**BODY["gpu"], **more}})
    assert status == 400 and "no longer any instances" in why


def test_a_body_above_the_limit_makes_nothing(client: Client) -> None:
    """102,400 bytes are taken, and not one more."""
    room = 102_400 - len(json.dumps({**BODY, "env": {"A": ""}}, separators=(",", ":")))
    status, why = client.refused({**BODY, "env": {"A": "x" * (room + 1)}})
    assert status == 413 and "102400" in why
    assert client("POST", "pods", {**BODY, "env": {"A": "x" * room}}).status_code == 201


def test_a_template_says_what_the_request_leaves_open(client: Client) -> None:
    """The body wins, the environment is merged, and a template in use cannot be deleted."""
    template = client.made(
        "templates",
        {"name": "t", "image": "runpod/base:1", "env": {"A": "1", "B": "1"}, "ports": ["22/tcp"], "disk": 20},
    )
    assert client("GET", "templates").json() == {"templates": [template]}
    asked = {"name": "one", "gpu": BODY["gpu"], "templateId": template["id"], "env": {"B": "2"}, "disk": 30}
    pod = client.made("pods", asked)
    assert (pod["image"], pod["env"], pod["disk"]) == ("runpod/base:1", {"A": "1", "B": "2"}, 30)
    assert (pod["template"], pod["ports"]) == (template["id"], ["22/tcp"])
    assert client("DELETE", f"templates/{template['id']}").status_code == 400
    client("DELETE", f"pods/{pod['id']}")
    assert client("DELETE", f"templates/{template['id']}").status_code == 204
    assert client("GET", f"templates/{template['id']}").status_code == 404
    assert client.refused(asked) == (400, f"template {template['id']} does not exist")


def test_a_registrys_password_is_never_shown_again(client: Client) -> None:
    """It can be written only; templates lose what is deleted, pods keep it from being deleted."""
    made = client.made("registries", {"name": "r", "username": "me", "password": "hunter2"})
    template = client.made("templates", {"name": "t", "image": "a/b", "registry": made["id"]})
    assert client("GET", f"registries/{made['id']}").json() == made == {"id": made["id"], "name": "r"}
    pod = client.made("pods", {**BODY, "registry": made["id"]})
    assert pod["registry"] == made["id"]
    assert client("DELETE", f"registries/{made['id']}").status_code == 400
    client("DELETE", f"pods/{pod['id']}")
    assert client("DELETE", f"registries/{made['id']}").status_code == 204
    assert client("GET", f"templates/{template['id']}").json()["registry"] is None


def test_a_network_volume_outlives_its_pods(client: Client) -> None:
    """What one pod writes there, the next one finds; both stand in the volume's data centre."""
    volume = client.made("network-volumes", {"name": "v", "size": 10, "dataCenter": CENTER})
    mount = {"network": [{"volumeId": volume["id"], "path": "/kept/here"}]}
    for command in ("echo one > $GPURENT_ROOT/kept/here/note", "cat $GPURENT_ROOT/kept/here/note"):
        pod = client.made("pods", {**BODY, "mounts": mount, "entrypoint": ["sh", "-c"], "cmd": [command]})
        assert pod["dataCenterId"] == CENTER and pod["mounts"] == mount
        wait_for(partial(client.started, pod["id"]), "its command", 20)
        said = (client.root(pod["id"]) / "var/startup.log").read_text(encoding="utf-8")
        client("DELETE", f"pods/{pod['id']}")
    assert said.startswith("one\n"), said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"cloud": "COMMUNITY"}, "secure cloud"),
        ({"dataCenterIds": ["US-GEN-1"]}, f"is in {CENTER}"),
        ({"mounts": {"network": [{"volumeId": "nothing", "path": "/a"}]}}, "does not exist"),
        ({"mounts": {"persistent": {"size": 10, "path": "/a/../b"}}}, "does not climb"),
    ],
)
def test_a_volume_that_cannot_be_there_is_refused(client: Client, more: dict[str, Any], words: str) -> None:
    """It has one place, in the secure cloud."""
    volume = client.made("network-volumes", {"name": "v", "size": 10, "dataCenter": CENTER})
    mounts = {"network": [{"volumeId": volume["id"], "path": "/kept"}]}
    status, why = client.refused({**BODY, "mounts": mounts, **more})
    assert status == 400 and words in why


def test_a_disk_of_the_host_is_billed_with_the_containers(client: Client, sandbox: Sandbox) -> None:
    """A persistent mount is that many gigabytes more."""
    pod = client.made("pods", {**BODY, "disk": 30, "mounts": {"persistent": {"size": 20, "path": "/workspace"}}})
    assert pod["disk"] == 30 and sandbox.market.alive()[0].order.disk_gb == 50


def test_registered_keys_open_pods_that_ask_for_them(client: Client, sandbox: Sandbox) -> None:
    """``startSsh`` brings them, unless the request has a key of its own; a CR in a key is refused."""
    assert client("PUT", "account/ssh-keys", {"keys": ["ssh-ed25519 AAAA me\r"]}).status_code == 422
    assert client("PUT", "account/ssh-keys", {"keys": ["ssh-ed25519 AAAA me"]}).json()["keys"] == [
        "ssh-ed25519 AAAA me"
    ]
    for env, found in (({}, "ssh-ed25519 AAAA me"), ({"PUBLIC_KEY": "ssh-ed25519 BBBB"}, "ssh-ed25519 BBBB")):
        pod = client.made("pods", {**BODY, "startSsh": True, "env": env})
        (held,) = sandbox.market.alive()
        assert {**held.order.env, **held.injected}["PUBLIC_KEY"] == found and pod["env"] == env
        client("DELETE", f"pods/{pod['id']}")
    client("PUT", "account/ssh-keys", {"keys": []})


def test_a_stopped_pod_gets_its_gpu_back_while_it_is_free(client: Client, sandbox: Sandbox) -> None:
    """And is refused once somebody else has it."""
    pod = client.made("pods", BODY)["id"]
    for expected in (200, 400):
        assert client("POST", f"pods/{pod}/action", {"action": "stop"}).json()["status"] == "EXITED"
        if expected == 400:
            client.made("pods", {**BODY, "name": "two"})
        assert client("POST", f"pods/{pod}/action", {"action": "start"}).status_code == expected


def test_most_pods_of_the_community_have_no_public_address(client: Client, sandbox: Sandbox) -> None:
    """They run, with a proxy and nothing else: usual there, and no fault that was ordered."""
    seen = {}
    for machine in sandbox.market.offers():
        if not machine.trusted and machine.gpu_count == 1:
            body = {**BODY, "cloud": "COMMUNITY", "gpu": {"id": f"NVIDIA GeForce {machine.gpu}", "count": 1}}
            seen[client.made("pods", body)["id"]] = machine.open_ports
    wait_for(lambda: {one["status"] for one in client("GET", "pods").json()["pods"]} == {"RUNNING"}, "all of them", 30)
    shown = {one["id"]: one for one in client("GET", "pods").json()["pods"]}
    assert {pod: one["ssh"]["direct"] is not None for pod, one in shown.items()} == seen
    assert all(one["ssh"]["proxy"] for one in shown.values()) and sum(seen.values()) < len(seen) / 2
