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
from gpurent.errors import AuthFailed, BadReply, CreateFailed, NoCapacity, OfferGone, ProviderError, RateLimited
from gpurent.http import Policy
from gpurent.model import Instance, Need, Offer, Price
from gpurent.money import Usd
from gpurent.testing.conformance import ANY, launch
from gpurent_providers.vastai.provider import VastProvider

REPLIES: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "replies.json").read_text(encoding="utf-8"))
OFFER = Offer("vastai", "20000001", "RTX 4090", 24_564, Price(Usd.parse("0.4"), Usd.parse("0.1")))
STATUSES = (200, 202, 204, 301, 400, 401, 402, 403, 404, 405, 409, 410, 418, 422, 429, 500, 502, 503)
REFUSALS = (200, 400, 401, 402, 403, 404, 410, 429)
"""Statuses that may say that nothing was made; with 200 only a body that refuses in so many words."""
CALLS: dict[str, Callable[[VastProvider], object]] = {
    "offers": lambda api: api.offers(ANY),
    "bids": lambda api: api.offers(Need(gpus=("4090",), interruptible=True)),
    "get": lambda api: api.get("30000001"),
    "instances": lambda api: api.instances(),
    "attach": lambda api: api.attach_key("30000001", "ssh-ed25519 AAAA me"),
    "destroy": lambda api: api.destroy("30000001"),
    "charges": lambda api: api.charges("30000001"),
    "balance": lambda api: api.balance(),
}

FIELDS = ["success", "new_contract", "error", "msg", "offers", "instances", "results", "next_token", "credit", "label"]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats()
    | st.sampled_from(["", "tag-1", "no_such_ask", "auth_error", "30000001", "x", [], {}, [None], [{"id": 4}]])
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A published reply, changed at the top or in its rows, or no JSON at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=20)) or b"<html>"
    problem = draw(st.sampled_from(sorted(REPLIES["problems"])))
    name = draw(st.sampled_from(sorted(set(REPLIES) - {"problems"})))
    value = copy.deepcopy(draw(st.sampled_from([REPLIES[name], REPLIES["created"], REPLIES["problems"][problem]])))
    for rows in (value.get("offers"), value.get("instances"), value.get("results")):
        for row in rows if isinstance(rows, list) else [rows] if isinstance(rows, dict) else []:
            for changed in draw(st.lists(st.sampled_from(sorted(row)), max_size=3)):
                row[changed] = draw(VALUES)
    for changed in draw(st.lists(st.sampled_from(FIELDS), max_size=2)):
        value[changed] = draw(VALUES)
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def canned() -> Iterator[Canned]:
    with serving() as answer:
        yield answer


@pytest.fixture(scope="module")
def api(canned: Canned) -> Iterator[VastProvider]:
    with closing(VastProvider(canned.url, "k" * 64, ManualClock(), policy=Policy(attempts=2))) as made:
        yield made


@given(status=st.sampled_from(STATUSES), body=bodies())
@settings(max_examples=300, deadline=None)
def test_any_answer_to_a_create_is_an_instance_or_an_error_of_the_contract(
    canned: Canned, api: VastProvider, status: int, body: bytes
) -> None:
    """One request; success names a contract; "nothing was made" is concluded from a plain refusal only."""
    canned.status, canned.body, canned.asked = status, body, 0
    try:
        made = api.create(OFFER, launch("tag-1"))
    except (OfferGone, NoCapacity, AuthFailed, RateLimited):
        assert status in REFUSALS and b'"new_contract"' not in body.replace(b'"new_contract": null', b"")
        assert canned.asked == 1
    except CreateFailed as error:
        assert error.ref is None or error.ref.isdecimal()
        assert canned.asked == 1
    else:
        assert isinstance(made, Instance) and status == 200
        assert canned.asked == 2  # the second only looks


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_session_that_expired_is_a_matter_of_the_key(canned: Canned, api: VastProvider, name: str) -> None:
    """A 404 that is not a missing thing, whatever was asked for: nothing is concluded from it but that."""
    said = {"success": False, "msg": "Session expired. Please log in again."}
    canned.status, canned.body = 404, json.dumps(said).encode()
    with pytest.raises(AuthFailed, match="Session expired"):
        CALLS[name](api)
    with pytest.raises(AuthFailed):
        api.create(OFFER, launch("tag-1"))


def test_keys_that_can_never_be_attached_are_not_asked_for_again(canned: Canned, api: VastProvider) -> None:
    """Of teams, and what is not a key: permanent; of an instance that is not there yet: not."""
    for code in ("team_ssh_keys_not_supported", "no_ssh_key"):
        canned.status, canned.body = 400, json.dumps({"success": False, "error": code}).encode()
        with pytest.raises(BadReply) as caught:
            CALLS["attach"](api)
        assert not caught.value.transient


@pytest.mark.parametrize("status", [200, 202, 400, 500])
@pytest.mark.parametrize(
    "body",
    [
        {"success": True}, {"success": True, "new_contract": "soon"}, {"success": False, "error": "odd"}, {},
        {"x": "y" * 750},
    ],
)  # fmt: skip
def test_an_instance_s_key_in_an_unclear_answer_to_a_create_is_never_quoted(
    canned: Canned, api: VastProvider, status: int, body: dict[str, object]
) -> None:
    """Whatever else stands there, and wherever the excerpt ends."""
    key = "9f" * 32
    canned.status, canned.body = status, json.dumps({**body, "instance_api_key": key}).encode()
    with pytest.raises(ProviderError) as caught:
        api.create(OFFER, launch("tag-1"))
    assert key[:8] not in f"{caught.value} {caught.value!r} {caught.value.hint} {caught.value.__cause__}"


@given(name=st.sampled_from(sorted(CALLS)), status=st.sampled_from(STATUSES), body=bodies())
@settings(max_examples=400, deadline=None)
def test_any_answer_to_anything_else_is_a_value_or_a_typed_error(
    canned: Canned, api: VastProvider, name: str, status: int, body: bytes
) -> None:
    """Nothing but errors of providers comes out; an error status is never an empty listing."""
    canned.status, canned.body = status, body
    try:
        CALLS[name](api)
    except ProviderError:
        return
    assert status < 300 or (name, status) in {("destroy", 404), ("attach", 400)}
