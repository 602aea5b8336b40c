"""GraphQL of the look-alike, asked with the very queries of the PyPI package ``runpod`` 1.12.0 (MIT License)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.session.world import wait_for

from gpurent.money import ZERO
from gpurent_sandbox.server import Sandbox

GPU = "NVIDIA GeForce RTX 4090"
POD = """id containerDiskInGb costPerHr desiredStatus dockerArgs dockerId env gpuCount imageName lastStatusChange
    machineId memoryInGb name podType port ports uptimeSeconds vcpuCount volumeInGb volumeMountPath
    runtime { ports { ip isIpPublic privatePort publicPort type } } machine { gpuDisplayName }"""
MADE = "id imageName env machineId machine { podHostId }"
GPU_QUERY = """query GpuTypes { gpuTypes(input: {id: "%s"}) { maxGpuCount id displayName manufacturer memoryInGb
    cudaCores secureCloud communityCloud securePrice communityPrice oneMonthPrice threeMonthPrice oneWeekPrice
    communitySpotPrice secureSpotPrice lowestPrice(input: {gpuCount: 1}) { minimumBidPrice uninterruptablePrice } } }"""
LOOK = 'query pod { pod(input: {podId: "%s"}) { %s } }'
MINE = "query myPods { myself { pods { %s } } }"
STOP = 'mutation { podStop(input: { podId: "%s" }) { id desiredStatus } }'
RESUME = 'mutation { podResume(input: { podId: "%s", gpuCount: 1 }) { id desiredStatus imageName env machineId } }'
END = 'mutation { podTerminate(input: { podId: "%s" }) }'
CREATE = """mutation { podFindAndDeployOnDemand( input: { name: "sdk", imageName: "runpod/pytorch:1.0.2",
    cloudType: %s, startSsh: true, gpuTypeId: "%s", supportPublicIp: %s, gpuCount: 1, volumeInGb: 0,
    minVcpuCount: 1, minMemoryInGb: 1, dataCenterId: null, dockerArgs: "%s", containerDiskInGb: 10, ports: "22/tcp",
    volumeMountPath: "/runpod-volume", env: [{ key: "A", value: "b" }] } ) { %s } }"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(boot_s=0.2, seed=3) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(sandbox: Sandbox) -> Iterator[None]:
    yield
    for held in sandbox.market.alive():
        sandbox.market.vanish(held.id)


class Client:
    """What the SDK does: one query in, ``data`` out."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._url, self._key = f"{sandbox.url}/graphql", sandbox.account_key

    def ask(self, query: str, key: str | None = None, **more: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._key if key is None else key}"} if key != "" else {}
        return httpx.post(self._url, json={"query": query, **more}, headers=headers)

    def data(self, query: str) -> Any:
        reply = self.ask(query)
        assert reply.status_code == 200 and "errors" not in reply.json(), reply.text
        return reply.json()["data"]

    def create(self, *, cloud: str = "ALL", gpu: str = GPU, address: bool = True, args: str = "") -> Any:
        query = CREATE % (cloud, gpu, str(address).lower(), args, MADE)
        return self.data(query)["podFindAndDeployOnDemand"]

    def pod(self, ref: str) -> Any:
        return self.data(LOOK % (ref, POD))["pod"]

    def answers(self, ref: str) -> bool:
        return bool((self.pod(ref)["runtime"] or {}).get("ports"))


@pytest.fixture
def client(sandbox: Sandbox) -> Client:
    return Client(sandbox)


def test_a_pod_is_made_looked_at_stopped_resumed_and_terminated(client: Client, sandbox: Sandbox) -> None:
    """The SDK's whole round, each query as it sends it."""
    made = client.create()
    assert made["imageName"] == "runpod/pytorch:1.0.2" and made["env"] == ["A=b"] and made["machine"]["podHostId"]
    wait_for(lambda: client.answers(made["id"]), "its ports", 20)
    seen = client.pod(made["id"])
    (port,) = seen["runtime"]["ports"]
    assert (port["privatePort"], port["isIpPublic"], port["type"]) == (22, True, "tcp")
    assert (seen["desiredStatus"], seen["podType"], seen["gpuCount"], seen["uptimeSeconds"]) == (
        "RUNNING",
        "RESERVED",
        1,
        0,
    )
    assert seen["costPerHr"] > 0 and seen["vcpuCount"] > 0 and seen["memoryInGb"] > 0
    own = MINE % POD
    assert [one["id"] for one in client.data(own)["myself"]["pods"]] == [made["id"]]
    stop = client.data(STOP % made["id"])
    assert stop["podStop"] == {"id": made["id"], "desiredStatus": "EXITED"}
    assert not sandbox.market.alive()[0].active
    resume = RESUME % made["id"]
    assert client.data(resume)["podResume"]["desiredStatus"] == "RUNNING"
    wait_for(lambda: client.answers(made["id"]), "its ports again", 20)
    end = client.data(END % made["id"])
    assert end == {"podTerminate": None}
    assert client.pod(made["id"]) is None and sandbox.truth() == []


def test_a_pod_that_is_resumed_at_once_boots_again(client: Client) -> None:
    """However short it stood still: its processes are others, its port is new."""
    made = client.create()
    for _ in range(8):
        wait_for(lambda: client.answers(made["id"]), "its ports", 20)
        client.data(STOP % made["id"])
        client.data(RESUME % made["id"])


def test_a_stopped_pod_whose_gpu_was_taken_cannot_be_resumed(client: Client) -> None:
    """It is tied to its machine, as at RunPod."""
    first = client.create(cloud="SECURE")
    client.data(STOP % first["id"])
    second = client.create(cloud="SECURE")
    assert second["machineId"] == first["machineId"]
    reply = client.ask(RESUME % first["id"])
    assert reply.status_code == 200 and reply.json()["data"] == {"podResume": None}
    assert "not enough free GPUs" in reply.json()["errors"][0]["message"]


def test_stopped_time_bills_the_disk_alone(client: Client, sandbox: Sandbox) -> None:
    """Between stop and resume no GPU is billed, however often."""
    made, gpu = client.create(), ZERO
    for _ in range(2):
        client.data(STOP % made["id"])
        gpu = sandbox.market.history("runpod")[-1].charges(sandbox.market.now()).gpu
        later = sandbox.market.history("runpod")[-1].charges(sandbox.market.now() + 3600)
        assert later.gpu == gpu and later.disk > ZERO
        client.data(RESUME % made["id"])
    assert sandbox.market.history("runpod")[-1].charges(sandbox.market.now() + 3600).gpu > gpu


def test_all_clouds_means_the_secure_one_first(client: Client, sandbox: Sandbox) -> None:
    """And the community's machines when it is used up; one that must have an address is one that has."""
    for gpu, address in ((GPU, True), (GPU, True), ("NVIDIA GeForce RTX 3060", False)):
        client.create(gpu=gpu, address=address)
    assert [held.machine.trusted for held in sandbox.market.alive()] == [True, False, False]
    reply = client.ask(CREATE % ("ALL", "NVIDIA GeForce RTX 3060 Ti", "true", "", MADE))
    assert "no longer any instances available" in reply.json()["errors"][0]["message"]
    assert reply.json()["data"] == {"podFindAndDeployOnDemand": None}


def test_gpu_types_answer_without_a_key_and_nothing_else_does(client: Client) -> None:
    """Price and stock for everybody; account and pods for who has the key."""
    (shown,) = client.ask(GPU_QUERY % GPU, key="").json()["data"]["gpuTypes"]
    assert shown["id"] == GPU and shown["lowestPrice"]["uninterruptablePrice"] == shown["communityPrice"] > 0
    every = client.ask("query GpuTypes { gpuTypes { id displayName memoryInGb } }", key="").json()["data"]["gpuTypes"]
    assert {"id": "NVIDIA A100 80GB PCIe", "displayName": "A100 PCIE", "memoryInGb": 80} in every
    for query in (
        "{ myself { id } }",
        "{ gpuTypes { id } myself { id } }",
        "query a { gpuTypes { id } } query b { ...x } fragment x on Query { myself { id } }",
    ):
        assert client.ask(query, key="").status_code == 401
        assert client.ask(query, key="rpa_wrong").status_code == 401


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("{ myself { fortune } }", "Cannot query field 'fortune'"),
        ('mutation { podFindAndDeployOnDemand(input: {colour: "red"}) { id } }', "Field 'colour' is not defined"),
        ('mutation { podFindAndDeployOnDemand(input: {name: "a"b"}) { id } }', "Syntax Error"),
        ('mutation { podRentInterruptable(input: {bidPerGpu: 0.1}) { id } }', "Cannot query field"),
        ("", "Syntax Error"),
    ],
)  # fmt: skip
def test_what_the_schema_does_not_know_is_refused_as_a_whole(client: Client, query: str, words: str) -> None:
    """400, and nothing was made."""
    reply = client.ask(query)
    assert reply.status_code == 400 and words in reply.json()["errors"][0]["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"query": 5}', b"\xff"])
def test_a_body_that_holds_no_query_is_refused(sandbox: Sandbox, body: bytes) -> None:
    """400 for who has the key, 401 for everybody else."""
    key = {"Authorization": f"Bearer {sandbox.account_key}"}
    assert httpx.post(f"{sandbox.url}/graphql", content=body, headers=key).status_code == 400
    assert httpx.post(f"{sandbox.url}/graphql", content=body).status_code == 401


def test_a_pods_own_key_opens_that_pod_only(client: Client, sandbox: Sandbox) -> None:
    """It may look and terminate, as RunPod's own tool on a pod does; account and other pods are closed to it."""
    own, other = client.create(), client.create()
    key = next(held.key for held in sandbox.market.alive() if held.id.endswith(own["id"]))
    assert client.ask("{ myself { id } }", key=key).json()["errors"][0]["message"] == "Unauthorized"
    assert client.ask(END % other["id"], key=key).json()["errors"]
    assert client.ask(END % own["id"], key=key).json() == {"data": {"podTerminate": None}}
    assert [held.id[2:] for held in sandbox.market.alive()] == [other["id"]]


def test_docker_args_name_entry_point_and_command(client: Client, sandbox: Sandbox) -> None:
    """As dstack sends them: JSON in a text."""
    args = json.dumps({"entrypoint": ["bash", "-c"], "cmd": ['exec "$GPURENT_ROOT/start.sh"']})
    made = client.create(args=json.dumps(args)[1:-1])
    assert client.pod(made["id"])["dockerArgs"] == args
    wait_for(lambda: client.answers(made["id"]), "its ports", 20)
