"""Any status with any body, over real HTTP: the adapter answers with a value or with an error that callers know."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.adapters.canned import Canned, serving

from gpurent.clock import ManualClock
from gpurent.errors import AuthFailed, CreateFailed, NoCapacity, OfferGone, ProviderError, RateLimited, Unavailable
from gpurent.http import Policy
from gpurent.model import Instance, Offer, Price
from gpurent.money import Usd
from gpurent.testing.conformance import ANY, launch
from gpurent_providers.runpod.provider import RunPodProvider
from gpurent_providers.runpod.wire import Place

REPLIES: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "replies.json").read_text(encoding="utf-8"))
OFFER = Offer(
    "runpod", Place("SECURE", "NVIDIA A40", "EU-SE-1").id, "A40", 45_000, Price(Usd.parse("0.4"), Usd.parse("0.1"))
)
STATUSES = (200, 201, 202, 204, 301, 400, 401, 402, 403, 404, 405, 409, 410, 418, 422, 429, 500, 502, 503)
REFUSALS = (400, 401, 402, 403, 404, 410, 422, 429)
"""Statuses that may say that nothing was made."""
CALLS: dict[str, Callable[[RunPodProvider], object]] = {
    "offers": lambda api: api.offers(ANY),
    "get": lambda api: api.get("7h9k2m4n6p"),
    "instances": lambda api: api.instances(),
    "destroy": lambda api: api.destroy("7h9k2m4n6p"),
    "charges": lambda api: api.charges("7h9k2m4n6p"),
    "balance": lambda api: api.balance(),
}

FIELDS = ["id", "name", "status", "detail", "title", "errors", "pods", "records", "pagination", "podId", "data", "cost"]
VALUES = st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.sampled_from(["", "tag-1", "RUNNING", "x"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A published reply, changed at the top, or no JSON at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=20)) or b"<html>"
    name = draw(st.sampled_from(sorted(set(REPLIES) - {"problems"})))
    problem = draw(st.sampled_from(sorted(REPLIES["problems"])))
    value = copy.deepcopy(draw(st.sampled_from([REPLIES[name], REPLIES["created"], REPLIES["problems"][problem]])))
    if draw(st.booleans()) and "name" in value:
        value["name"] = "tag-1"
    for changed in draw(st.lists(st.sampled_from(FIELDS), max_size=2)):
        value[changed] = draw(VALUES)
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def canned() -> Iterator[Canned]:
    with serving() as answer:
        yield answer


@pytest.fixture(scope="module")
def api(canned: Canned) -> Iterator[RunPodProvider]:
    with closing(RunPodProvider(canned.url, "rpa_x", ManualClock(), policy=Policy(attempts=2))) as made:
        yield made


@given(status=st.sampled_from(STATUSES), body=bodies())
@settings(max_examples=300, deadline=None)
def test_any_answer_to_a_create_is_a_pod_or_an_error_of_the_contract(
    canned: Canned, api: RunPodProvider, status: int, body: bytes
) -> None:
    """One request; success is a pod of our name; "nothing was made" is concluded from a plain refusal only."""
    canned.status, canned.body, canned.asked = status, body, 0
    try:
        made = api.create(OFFER, launch("tag-1"))
    except (OfferGone, NoCapacity, AuthFailed, RateLimited):
        assert status in REFUSALS
    except CreateFailed as error:
        assert error.ref is None or error.ref.isprintable()
    else:
        assert isinstance(made, Instance) and (status, made.tag) == (201, "tag-1")
    assert canned.asked == 1


@pytest.mark.parametrize("status", [200, 201, 400, 500])
def test_what_a_pod_carries_is_never_quoted_from_an_unclear_answer_to_a_create(
    canned: Canned, api: RunPodProvider, status: int
) -> None:
    """RunPod shows a pod's environment in clear, its passwords and keys as well."""
    env = {"PUBLIC_KEY": "ssh-ed25519 AAAA", "JUPYTER_PASSWORD": "9f9f-pass", "RUNPOD_API_KEY": "rpa_9f9f", "XAPI": "x"}
    canned.status, canned.body = status, json.dumps({"name": "tag-1", "env": env}).encode()
    with pytest.raises(ProviderError) as caught:
        api.create(OFFER, launch("tag-1"))
    assert "9f9f" not in f"{caught.value} {caught.value!r} {caught.value.hint} {caught.value.__cause__}"


@given(name=st.sampled_from(sorted(CALLS)), status=st.sampled_from(STATUSES), body=bodies())
@settings(max_examples=300, deadline=None)
def test_any_answer_to_anything_else_is_a_value_or_a_typed_error(
    canned: Canned, api: RunPodProvider, name: str, status: int, body: bytes
) -> None:
    """Nothing but errors of providers comes out; an error status is never an empty listing."""
    canned.status, canned.body = status, body
    try:
        CALLS[name](api)
    except ProviderError:
        return
    assert status < 300 or (name, status) in {("destroy", 404), ("destroy", 409)}


@pytest.mark.parametrize("status", ["RUNNING", "TERMINATED"])
def test_a_conflict_is_the_end_only_of_a_pod_that_has_ended(canned: Canned, api: RunPodProvider, status: str) -> None:
    """409 to a terminate is looked into: it is a success if the pod is terminated already, else to be tried again."""
    canned.status, canned.body = 200, json.dumps(REPLIES["pod"] | {"status": status}).encode()
    canned.own["DELETE"] = 409, json.dumps({"title": "Conflict", "status": 409, "detail": "not now"}).encode()
    try:
        api.destroy("7h9k2m4n6p")
    except Unavailable:
        assert status == "RUNNING"
    else:
        assert status == "TERMINATED"
    finally:
        canned.own.clear()
