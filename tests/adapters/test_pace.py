"""How often a route may be asked: a burst, then one request in so many seconds, by the injected clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.canned import Canned, serving

from gpurent.clock import ManualClock
from gpurent.errors import RateLimited
from gpurent.http import Api, Pace, Policy


@pytest.fixture(scope="module")
def canned() -> Iterator[Canned]:
    with serving() as answer:
        yield answer


def client(canned: Canned, clock: ManualClock, *paces: Pace) -> Api:
    return Api("x", canned.url, headers={}, secrets=(), clock=clock, policy=Policy(attempts=1, paces=paces))


@given(burst=st.integers(1, 4), pauses=st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_no_stretch_of_time_holds_more_than_its_burst(canned: Canned, burst: int, pauses: list[int]) -> None:
    """However requests arrive: within any n x 5 s there are at most n more than the burst."""
    canned.status, canned.body = 200, b"{}"
    clock = ManualClock()
    sent: list[float] = []
    with closing(client(canned, clock, Pace("GET", "/slow/", 5.0, burst))) as api:
        for pause in pauses:
            clock.sleep(pause)
            api.read("/slow/")
            sent.append(clock.monotonic())
    for first, start in enumerate(sent):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + (sent[last] - start) / 5.0 + 1e-9


def test_other_routes_are_not_held_up(canned: Canned) -> None:
    """A pace holds for its method and its path."""
    canned.status, canned.body = 200, b"{}"
    clock = ManualClock()
    with closing(client(canned, clock, Pace("GET", "/slow/", 5.0))) as api:
        for path in ("/slow/", "/fast/", "/slower/", "/fast/"):
            api.read(path)
        assert clock.monotonic() == 0
        api.read("/slow/")
    assert clock.monotonic() == 5


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (b'{"retry_after": 9}', 9.0),
        (b'{"retry_after": true}', None),
        (b"API requests too frequent", None),
        (b"[]", None),
    ],
)
def test_a_pause_that_a_body_asks_for_is_heard(canned: Canned, body: bytes, seconds: float | None) -> None:
    """Not every service uses the header."""
    canned.status, canned.body = 429, body
    with closing(client(canned, ManualClock())) as api, pytest.raises(RateLimited) as caught:
        api.read("/")
    assert caught.value.retry_after == seconds
