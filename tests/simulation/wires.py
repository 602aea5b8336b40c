"""What a process's requests go through: it may die before, meanwhile or after, and answers may never end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlencode

import httpx
from tests.simulation.computer import MortalClock
from tests.simulation.schedule import NEVER
from tests.simulation.service import CUT_OFF, SILENCE, TRICKLE

UNCONNECTED_S = 5.0
LISTING = "/v1/instances"


@dataclass(frozen=True)
class Wires:
    """From one process to the service."""

    clock: MortalClock
    answer_s: float
    """The longest silence that the client bears."""

    def carry(self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: str) -> Answer:
        """Ask. Raises what httpx raises."""
        process, virtual = self.clock.process, self.clock.virtual
        world, what = process.world, f"{method} {path.rpartition('/')[0]}"
        process.step(f"before {what}")
        if process.computer.offline:
            world.tally.faults["home's network gone"] += 1
            virtual.sleep(UNCONNECTED_S)
            raise httpx.ConnectError("no route")
        status, headers_back, answer = world.service.ask(method, path, headers, body, query, process.sight)
        if method == "GET" and path.startswith(LISTING) and status in (200, 404) and answer.startswith(b"{"):
            process.looked_at.append(virtual.now())
        world.note(process, f"{method} {path} -> {status}")
        world.network.notice()
        process.step(f"after {what}")
        if status == TRICKLE:
            virtual.sleep(NEVER)
        if status == SILENCE:
            virtual.sleep(self.answer_s)
            raise httpx.ReadTimeout("no answer")
        if status == CUT_OFF:
            raise httpx.RemoteProtocolError("connection cut")
        return Answer(status, headers_back, answer)


class Transport(httpx.BaseTransport):
    """Wires below httpx itself."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        headers = {name.title(): value for name, value in request.headers.items()}
        answer = self._wires.carry(request.method, url.path, headers, request.read(), url.query.decode())
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
        headers: Mapping[str, str],
    ) -> Callable[[], Answer]:  # fmt: skip
        query = "" if not params else urlencode(params)
        return lambda: self._wires.carry(method, unquote(path), headers, content or b"", query)

    def send(self, request: Callable[[], Answer], *, stream: bool) -> Answer:
        return request()

    def close(self) -> None: ...
