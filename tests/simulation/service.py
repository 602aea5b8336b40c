"""The sandbox's own API behind the real adapter, without sockets: requests are driven through the ASGI application."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import httpx
from tests.simulation.clock import VirtualClock
from tests.simulation.fate import Fate

from gpurent.sandbox.api import Context, Keys, build_api
from gpurent.sandbox.faults import Fault, Faults, Rule
from gpurent.sandbox.journal import Journal
from gpurent.sandbox.market import Market
from gpurent.sandbox.wire import CUT, Wire

LATENCY_S = 0.2
TIMEOUT_S = 30.0
ACCOUNT = "sbx_account_of_the_simulation"
URL = "http://market.invalid"


class CountingFaults(Faults):
    """Faults that remember how often each struck."""

    struck: Counter[str]

    def take(self, fault: Fault, request: str = "") -> Rule | None:
        rule = super().take(fault, request)
        if rule is not None:
            self.struck[fault.value] += 1
        return rule


class _NoJournal(Journal):
    """Requests are not kept: there are millions."""

    def arrived(self, at: float, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> int:
        return 0

    def answered(self, number: int, status: int, violations: Sequence[str] = ()) -> None: ...


class Service:
    """The market's front door, its outages included."""

    def __init__(self, market: Market, faults: Faults, clock: VirtualClock, struck: Counter[str]) -> None:
        self._market = market
        self._struck = struck
        self._clock = clock
        self.down = False
        context = Context(market, faults, Keys(account=ACCOUNT, control="-"), self._killed, lambda _ref: "")
        self._app = Wire(
            build_api(context), faults=faults, journal=_NoJournal(Path(), lambda: ()), now=clock.now
        )  # fmt: skip

    async def _killed(self, ref: str) -> None:
        """Hosts of this world die with their instance."""

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes, query: str = ""
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """One request and its answer; status 0 is a cut connection, -1 silence."""
        self._clock.sleep(LATENCY_S)
        if self.down:
            self._struck["provider's API down"] += 1
            return -1, [], b""
        sent: list[dict[str, Any]] = []
        scope: dict[str, Any] = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "http_version": "1.1", "scheme": "http", "server": ("market", 80), "client": ("-", 0), "root_path": "",
        }  # fmt: skip
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        _drive(self._app(scope, receive, send))
        for ref in self._market.ended():
            self._market.forget(ref)
        if not sent:
            return (0 if scope[CUT] else -1), [], b""
        status = int(sent[0]["status"])
        return status, sent[0]["headers"], b"".join(message.get("body", b"") for message in sent[1:])


def _drive(task: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never really waits."""
    try:
        task.send(None)
    except StopIteration:
        return
    raise RuntimeError("a handler of the sandbox waits for something that virtual time does not bring")


@contextmanager
def swapped(owner: Any, name: str, other: object) -> Iterator[None]:
    """For a while ``owner`` has another attribute of this name."""
    own = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, own)


@dataclass(frozen=True)
class Wires:
    """What one client's requests go through; it may die before, meanwhile or after."""

    service: Service
    clock: VirtualClock
    fate: Fate
    seen: Callable[[], None]

    def carry(self, method: str, path: str, headers: dict[str, str], body: bytes, query: str) -> Answer:
        """Ask. Raises what httpx raises."""
        what = f"{method} {path.rpartition('/')[0]}"
        self.fate.step(f"before {what}")
        status, headers_back, answer = self.service.ask(method, path, headers, body, query)
        self.seen()
        self.fate.step(f"after {what}")
        if status == -1:
            self.clock.sleep(TIMEOUT_S)
            raise httpx.ReadTimeout("no answer")
        if status == 0:
            raise httpx.RemoteProtocolError("connection cut")
        return Answer(status, headers_back, answer)


class Transport(httpx.BaseTransport):
    """Wires below httpx itself."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = self._wires.carry(
            request.method, url.path, dict(request.headers.items()), request.read(), url.query.decode()
        )
        return httpx.Response(answer.status_code, headers=answer.raw, content=answer.body, request=request)


@dataclass(frozen=True)
class Answer:
    """As much of ``httpx.Response`` as ``gpurent.http`` looks at."""

    status_code: int
    raw: Sequence[tuple[bytes, bytes]]
    body: bytes

    @property
    def headers(self) -> Mapping[str, str]:
        return _Headers({name.decode().lower(): value.decode() for name, value in self.raw})

    def iter_bytes(self) -> Iterator[bytes]:
        yield self.body

    def close(self) -> None: ...


class _Headers(dict[str, str]):
    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class Line:
    """Wires in the place of httpx's client, whose own work costs more than all the rest of a request here."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires

    def build_request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None, content: bytes | None,
        headers: dict[str, str],
    ) -> Callable[[], Answer]:  # fmt: skip
        query = "" if not params else urlencode(params)
        return lambda: self._wires.carry(method, unquote(path), headers, content or b"", query)

    def send(self, request: Callable[[], Answer], *, stream: bool) -> Answer:
        return request()

    def close(self) -> None: ...
