"""RunPod's official client of REST v2 drives the look-alike: it is content, and asks what it was seen to ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tests.runpod_official.mcp import Answer, McpServer
from tests.session.world import wait_for

from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import Order
from gpurent_sandbox.journal import Entry
from gpurent_sandbox.server import Sandbox

GPU = "NVIDIA GeForce RTX 4090"
RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "requests.jsonl").read_text(encoding="utf-8").splitlines()
]
"""Requests of the same package, logged elsewhere, before another server."""
BODY = json.loads(next(one["body"] for one in RECORDED if one["call"] == "create-pod"))
SEEN_AS = "7h9k2m4n6p"
"""The pod's id in that log."""


@dataclass(frozen=True)
class Session:
    """One session with every tool that the log covers: answers and requests by the log's names."""

    pod: str
    answers: dict[str, Answer]
    requests: dict[str, Entry]


@pytest.fixture(scope="module")
def session(server: McpServer, sandbox: Sandbox) -> Session:
    answers: dict[str, Answer] = {}
    requests: dict[str, Entry] = {}

    def call(name: str, tool: str = "", **arguments: object) -> Answer:
        answers[name] = server.call(tool or name, **arguments)
        requests[name] = sandbox.journal.entries()[-1]
        return answers[name]

    call("list-gpu-types", include=["AVAILABILITY"], product="POD", count=1, cloud="SECURE")
    call("get-gpu-type", id=GPU, include=["AVAILABILITY"], product="POD")
    pod: str = call("create-pod", body=BODY).json()["id"]
    wait_for(lambda: sandbox.market.alive()[0].port is not None, "the boot", 20)
    call("list-pods")
    call("get-pod", id=pod)
    call("pod-action-stop", "pod-action", id=pod, body={"action": "stop"})
    machine = sandbox.market.history("runpod")[0].machine.id
    taken = sandbox.market.create(Order(machine, "somebody else's", "", 10, ""))
    call("start refused", "pod-action", id=pod, body={"action": "start"})
    sandbox.market.vanish(taken.id)
    call("list-pod-billing", bucketSize="hour", lastN=3, podId=pod)
    call("delete-pod", id=pod)
    call("get-pod after delete", "get-pod", id=pod)
    call("get-ssh-keys")
    second: str = server.call("create-pod", body={**BODY, "name": "job-2"}).json()["id"]
    call("pod-action-terminate", "pod-action", id=second, body={"action": "terminate"})
    return Session(pod, answers, requests)


def parsed(body: str) -> Any:
    return json.loads(body) if body else None


@pytest.mark.parametrize("recorded", RECORDED, ids=[one["call"] for one in RECORDED])
def test_its_requests_are_those_that_were_recorded(session: Session, recorded: dict[str, Any]) -> None:
    """Method, path, query, body, and how it calls itself; only the pod's id differs."""
    entry = session.requests[recorded["call"]]
    own = entry.path.rpartition("/v2/pods/")[2].partition("/")[0] if "/v2/pods/" in entry.path else session.pod
    path, _, query = recorded["path"].replace(SEEN_AS, own).partition("?")
    assert (entry.method, entry.path, entry.query) == (recorded["method"], unquote(path), query)
    assert parsed(entry.body) == parsed(recorded["body"])
    assert {name: entry.headers.get(name) for name in recorded["headers"]} == recorded["headers"]


TELLS: dict[str, Callable[[Any, str], object]] = {
    "list-gpu-types": lambda said, pod: GPU in [one["id"] for one in said["gpus"]],
    "get-gpu-type": lambda said, pod: said["availability"] != "NONE" and said["memory"] == 24,
    "create-pod": lambda said, pod: said["status"] == "PROVISIONING" and said["cost"] > 0,
    "list-pods": lambda said, pod: [one["id"] for one in said["pods"]] == [pod],
    "get-pod": lambda said, pod: (said["name"], said["gpu"]["count"]) == ("job-1", 1),
    "pod-action-stop": lambda said, pod: said["status"] == "EXITED",
    "list-pod-billing": lambda said, pod: {one["podId"] for one in said["records"]} == {pod},
    "get-ssh-keys": lambda said, pod: said["keys"] == [],
}


@pytest.mark.parametrize("name", TELLS)
def test_its_tools_tell_what_the_market_knows(session: Session, name: str) -> None:
    """The client finds in our answers what it would find in RunPod's."""
    assert TELLS[name](session.answers[name].json(), session.pod), session.answers[name].text


def test_both_ways_to_end_a_pod_end_it(session: Session, sandbox: Sandbox) -> None:
    """DELETE and the action terminate: accepted, and nothing is left."""
    assert not session.answers["delete-pod"].failed and not session.answers["pod-action-terminate"].failed
    assert (session.requests["delete-pod"].status, session.requests["pod-action-terminate"].status) == (204, 204)
    assert len(sandbox.market.history("runpod")) == 2 and sandbox.market.alive() == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("start refused", "not enough free GPUs"), ("get-pod after delete", "pod not found")],
)
def test_our_refusals_are_problems_to_it(session: Session, name: str, words: str) -> None:
    """It takes our problem+json for RunPod's, and shows the detail."""
    assert session.answers[name].failed and words in session.answers[name].text


def test_no_capacity_is_told_and_not_asked_for_again(server: McpServer, sandbox: Sandbox) -> None:
    """A GPU that nobody has: one request, RunPod's own words."""
    before = len(sandbox.journal.entries())
    said = server.call("create-pod", body={**BODY, "gpu": {"id": "A", "count": 1}})
    assert said.failed and "no longer any instances available" in said.text
    assert len(sandbox.journal.entries()) == before + 1


ERRORS: dict[str, list[dict[str, Any]]] = {}
for line in (Path(__file__).parent / "data" / "errors.jsonl").read_text(encoding="utf-8").splitlines():
    ERRORS.setdefault(json.loads(line)["call"], []).append(json.loads(line))
ORDERS: dict[str, Callable[[Sandbox], object]] = {
    "create-pod-err400": lambda sandbox: None,  # nobody has that GPU
    "create-pod-err422": lambda sandbox: sandbox.faults.set(Fault.BAD_IMAGE),
    "list-pods-err429": lambda sandbox: sandbox.faults.set(Fault.HTTP_429, times=2, value=1, on="GET /v2/pods"),
    "list-pods-err502": lambda sandbox: sandbox.faults.set(Fault.HTTP_502, on="GET /v2/pods"),
}
"""How the look-alike is brought to answer as the service did in the log."""


@pytest.mark.parametrize("case", sorted(ERRORS))
def test_errors_are_met_as_they_were_before(server: McpServer, sandbox: Sandbox, case: str) -> None:
    """Refusals are told and not repeated; a rate limit and a gateway's page are waited out: request by request."""
    assert set(ORDERS) == set(ERRORS)
    before = len(sandbox.journal.entries())
    ORDERS[case](sandbox)
    tool, last = case.rpartition("-err")[0], ERRORS[case][-1]
    answer = server.call(tool, **({"body": parsed(last["body"])} if last["body"] else {}))
    assert answer.failed == (last["reply_status"] >= 400)
    asked = [
        {"call": case, "method": one.method, "path": one.path, "body": parsed(one.body), "reply_status": one.status}
        for one in sandbox.journal.entries()[before:]
    ]
    assert asked == [{**one, "body": parsed(one["body"])} for one in ERRORS[case]]
