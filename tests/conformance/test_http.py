"""The HTTP client of adapters: every failure has a meaning, only what may be repeated is repeated."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from gpurent.clock import Clock, ManualClock, SystemClock, Uptime
from gpurent.errors import AuthFailed, BadReply, ProviderError, RateLimited, Unavailable
from gpurent.http import HTTPX_ERRORS, Api, Pace, Policy, Redactor, map_error, parse_retry_after, used_up_for
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.server import Sandbox

EXPORTED = [kind for kind in vars(httpx).values() if isinstance(kind, type) and issubclass(kind, Exception)]


Connect = Callable[..., Api]


@pytest.fixture
def connect(market: Sandbox) -> Iterator[Connect]:
    opened: list[Api] = []

    def connect(clock: Clock, **policy: float) -> Api:
        headers = {"Authorization": f"Bearer {market.account_key}"}
        given = Policy(**policy)  # type: ignore[arg-type]
        opened.append(
            Api("sandbox", market.url, headers=headers, secrets=(), clock=clock, policy=given, use_proxies=False)
        )
        return opened[-1]

    yield connect
    for api in opened:
        api.close()


@pytest.fixture(autouse=True)
def no_faults(market: Sandbox) -> None:
    market.faults.clear()


@pytest.mark.parametrize("kind", EXPORTED)
def test_every_exception_of_httpx_is_mapped(kind: type[Exception]) -> None:
    """A new exception in a new httpx turns this red."""
    assert kind in HTTPX_ERRORS
    assert isinstance(HTTPX_ERRORS[kind]("x"), ProviderError)


def test_an_error_names_the_provider_and_no_secret() -> None:
    """The mapped error is redacted."""
    error = map_error(httpx.ConnectError("no route for key-123"), "acme", "GET /x", Redactor(("key-123",)))
    assert type(error) is Unavailable
    assert (error.provider, "key-123" in str(error)) == ("acme", False)


@pytest.mark.parametrize(
    "text",
    [
        '{"instance_api_key":"9f9f","success":true}',
        '{"env": {"HF_TOKEN" : "9f9f \\"9f9f\\" 9f9f"}}',
        '{"ssh_keys":"{\\"private_key\\": \\"9f9f\\"}"}',
        "{'apiKey': '9f9f'}",
        '{"api_key": 9191, "client_secret":"9f9f',
        "GET /x?api_key=9f9f&limit=3",
        "Authorization: 9f9f",
        "authorization: Bearer 9f9f",
    ],
)
def test_fields_that_are_named_like_secrets_are_blotted_out(text: str) -> None:
    """Also secrets that nobody has told us about, and those whose end was cut off."""
    shown = Redactor(())(text)
    assert "9f9f" not in shown and "9191" not in shown and "[redacted]" in shown


@pytest.mark.parametrize("text", ['{"error":"no_such_ask","msg":"Invalid user key"}', '{"PUBLIC_KEY":"ssh-ed25519 A"}'])
def test_what_is_no_secret_stays(text: str) -> None:
    """An error is still understood."""
    assert Redactor(())(text) == text


def test_reads_are_repeated_after_the_pause_that_was_asked_for(market: Sandbox, connect: Connect) -> None:
    """Two 429 with Retry-After 4 cost eight seconds of waiting and then answer."""
    clock = ManualClock()
    market.faults.set(Fault.HTTP_429, times=2, value=4)
    assert connect(clock).read("/v1/balance").status == 200
    assert clock.monotonic() == 8


def test_a_pause_too_long_is_left_to_the_caller(market: Sandbox, connect: Connect) -> None:
    """Nobody waits an hour inside a client."""
    clock = ManualClock()
    market.faults.set(Fault.HTTP_429, value=3600)
    with pytest.raises(RateLimited) as caught:
        connect(clock).read("/v1/balance")
    assert (caught.value.retry_after, clock.monotonic()) == (3600, 0)


def test_attempts_are_limited_and_back_off(market: Sandbox, connect: Connect) -> None:
    """Three attempts, with half a second and a second between them."""
    clock = ManualClock()
    market.faults.set(Fault.HTTP_500, times=5)
    before = len(market.journal.entries())
    with pytest.raises(Unavailable):
        connect(clock).destroy("/v1/instances/x")
    assert (len(market.journal.entries()) - before, clock.monotonic()) == (3, 1.5)


def test_a_destroy_is_not_repeated_after_a_sleep(market: Sandbox, connect: Connect) -> None:
    """What its path named may have ended meanwhile, and the name be somebody else's."""
    clock = _Lid()
    market.faults.set(Fault.HTTP_500, times=5)
    before = len(market.journal.entries())
    with pytest.raises(Unavailable, match="not repeated"):
        connect(clock).destroy("/v1/instances/x")
    assert len(market.journal.entries()) - before == 1


class _Lid(ManualClock):
    """Of a computer whose lid is closed for an hour in each pause; its monotonic clock stands still meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._asleep = 0.0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._asleep += 3600.0

    def uptime(self) -> Uptime:
        return Uptime("manual", self.monotonic() + self._asleep)


def test_send_once_returns_any_status_and_is_sent_once(market: Sandbox, connect: Connect) -> None:
    """A 500 to a create is a reply to be read, not repeated."""
    before = len(market.journal.entries())
    market.faults.set(Fault.HTTP_500)
    assert connect(ManualClock()).send_once("POST", "/v1/instances", {}).status == 500
    assert len(market.journal.entries()) == before + 1


def test_requests_keep_their_distance(market: Sandbox, connect: Connect) -> None:
    """Three requests a second apart take two seconds."""
    clock = ManualClock()
    api = connect(clock, min_interval_s=1.0)
    for _ in range(3):
        api.read("/v1/balance")
    assert clock.monotonic() == 2


@pytest.fixture
def quota() -> Iterator[tuple[str, dict[str, str]]]:
    """A service that answers everything with the headers in the dictionary, and with ``X-Body`` bytes."""
    headers: dict[str, str] = {}

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # the client may have read enough
                self.wfile.write(b"x" * int(headers.get("X-Body", "0")))

        do_DELETE = do_GET

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", headers
        server.shutdown()
        thread.join()


def test_a_quota_that_is_used_up_is_waited_for(quota: tuple[str, dict[str, str]]) -> None:
    """The request after the last one of a minute waits for the next minute; nobody waits for the next day."""
    url, headers = quota
    clock = ManualClock()
    with closing(Api("acme", url, headers={}, secrets=(), clock=clock, use_proxies=False)) as api:
        headers["RateLimit"] = '"minute";r=0;t=12, "hour";r=2800;t=1812'
        api.read("/")
        headers["RateLimit"] = '"minute";r=59;t=60, "day";r=0;t=45012'
        api.read("/")
        api.read("/")
    assert clock.monotonic() == 12


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, 0), ("", 0), ('"a";r=0', 0), ('"a";t=9;r=0', 9), ('"a"; r=0; t=5, "b";r=0;t=7', 7), ("r=0;t=x,,;r=", 0)],
)
def test_a_quota_is_read_from_whatever_the_header_says(text: str | None, seconds: float) -> None:
    """Order and blanks do not matter, nonsense is not a quota."""
    assert used_up_for(text) == seconds


def test_statuses_have_their_meaning(market: Sandbox, connect: Connect) -> None:
    """404 that was not expected is BadReply; the user agent names us."""
    with pytest.raises(BadReply):
        connect(ManualClock()).read("/v1/nothing")
    assert market.journal.entries("GET", "/v1/nothing")[-1].headers["user-agent"].startswith("gpurent/")


def test_a_key_with_odd_characters_is_refused_without_being_shown() -> None:
    """A pasted line break in a key is AuthFailed, and the key is not in the message."""
    with pytest.raises(AuthFailed) as caught:
        Api("acme", "http://x", headers={"Authorization": "Bearer se\ncret"}, secrets=(), clock=ManualClock())
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("2", 2.0), ("-5", 0.0), ("nan", None), ("soon", None), ("inf", 86400.0),
     ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0)],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(text: str | None, seconds: float | None) -> None:
    """Seconds, an HTTP date, or nothing that makes sense."""
    assert parse_retry_after(text, now=100.0) == seconds


TRICKLE = {"total_s": 1.0, "destroy_s": 1.0, "attempts": 2, "wait_s": 0.0}


@pytest.mark.parametrize("verb", ["read", "destroy", "send_once"])
def test_an_answer_that_trickles_has_an_end(market: Sandbox, connect: Connect, verb: str) -> None:
    """One byte a tenth of a second keeps every timeout of single reads happy; the whole has a deadline of its own."""
    market.faults.set(Fault.HTTP_TRICKLE, value=0.1, p=1.0)
    api = connect(SystemClock(), **TRICKLE)
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: api.read("/v1/balance"),
        "destroy": lambda: api.destroy("/v1/instances/none"),
        "send_once": lambda: api.send_once("POST", "/v1/instances", {}),
    }
    before = len(market.journal.entries())
    with pytest.raises(Unavailable, match="no complete answer in 1 s"):
        acts[verb]()
    assert len(market.journal.entries()) - before == (1 if verb == "send_once" else 2)
    market.faults.clear()
    assert api.read("/v1/balance").status == 200


def test_a_service_that_takes_no_request_has_an_end() -> None:
    """It accepts the connection, and reads nothing of a request that is longer than what the network holds."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        policy = Policy(total_s=0.5, answer_s=600, connect_s=600)
        api = Api("x", url, headers={}, secrets=(), clock=SystemClock(), policy=policy, use_proxies=False)
        with closing(api), pytest.raises(Unavailable, match="no complete answer"):
            api.send_once("POST", "/", "x" * 32_000_000)


def test_an_answer_without_an_end_is_not_kept(quota: tuple[str, dict[str, str]]) -> None:
    """More than anybody would read is a bad reply, and the connection is given up."""
    url, headers = quota
    headers["X-Body"] = "1000000"
    policy = Policy(max_body=10_000, attempts=3)
    with closing(
        Api("acme", url, headers={}, secrets=(), clock=ManualClock(), policy=policy, use_proxies=False)
    ) as api:
        with pytest.raises(BadReply, match="more than 10000 bytes"):
            api.read("/")
        headers["X-Body"] = "10"
        assert api.read("/").body == b"x" * 10


def test_a_destroy_waits_for_no_other_request(quota: tuple[str, dict[str, str]]) -> None:
    """Neither a quota that is used up nor the pace of other routes delays it; its own route's does."""
    url, headers = quota
    clock = ManualClock()
    policy = Policy(min_interval_s=5.0, paces=(Pace("DELETE", "/x", 3.0),))
    with closing(Api("acme", url, headers={}, secrets=(), clock=clock, policy=policy, use_proxies=False)) as api:
        headers["RateLimit"] = '"minute";r=0;t=12'
        api.read("/")
        api.destroy("/x")
        assert clock.monotonic() == 0
        api.destroy("/x")
        assert clock.monotonic() == 3
