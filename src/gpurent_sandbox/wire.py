"""HTTP faults, connection cutting and the journal: put around every look-alike API, whatever it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpurent_sandbox.faults import Fault, Faults
from gpurent_sandbox.journal import Journal

GARBAGE = b"<!doctype html><title>Maintenance</title><h1>We will be right back</h1>"


GATEWAY = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
CUT = "gpurent.cut"
VIOLATIONS = "gpurent.violations"

Dress = Callable[[str, int], tuple[str, bytes] | None]
"""Given path and status, how that path's API words an error of its front door: content type and body."""

_PLAIN = {
    410: b'{"error":{"code":"gone","message":"this API was switched off"}}',
    429: b'{"error":{"code":"rate_limited","message":"too many requests"}}',
    500: b'{"error":{"code":"internal","message":"something broke"}}',
}


def note_violation(scope: Scope, text: str) -> None:
    """Called by a handler: the request breaks the specification of the service; the journal will say so."""
    scope[VIOLATIONS].append(text)


def lose_reply(scope: Scope) -> None:
    """Called by a handler whose work is done: whatever it returns, the connection is cut and nothing is answered."""
    scope[CUT].append(True)


class CuttableProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol whose connections can be cut by the client's address."""

    open_transports: dict[tuple[str, int], asyncio.Transport] = {}  # noqa: RUF012  (shared on purpose: keyed by peer)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the transport."""
        super().connection_made(transport)
        self._peer: tuple[str, int] = transport.get_extra_info("peername")[:2]
        self.open_transports[self._peer] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.open_transports.pop(self._peer, None)
        super().connection_lost(exc)


class Wire:
    """ASGI middleware: journal, then faults, then the API."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        faults: Faults,
        journal: Journal,
        now: Callable[[], float],
        dress: Dress = lambda _path, _status: None,
    ) -> None:
        self._app = app
        self._dress = dress
        self._faults = faults
        self._journal = journal
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        number = self._journal.arrived(self._now(), scope["method"], scope["path"], query, headers=headers, body=body)
        answered = False
        scope[CUT] = []
        scope[VIOLATIONS] = []

        async def watched(message: Message) -> None:
            nonlocal answered
            if scope[CUT]:
                return
            if message["type"] == "http.response.start":
                answered = True
                message["headers"] = [*message.get("headers", ()), (b"date", self._date())]
                self._journal.answered(number, int(message["status"]), scope[VIOLATIONS])
            await send(message)

        try:
            await self._faulty(scope, body, receive, watched)
        finally:
            if not answered:
                self._journal.answered(number, 0, scope[VIOLATIONS])
            transport = CuttableProtocol.open_transports.get(tuple(scope["client"]))
            if scope[CUT] and transport is not None:
                transport.abort()
                await _gone(receive)

    def _date(self) -> bytes:
        """The market's time, which need not be this computer's."""
        wrong = self._faults.take(Fault.DATE_AHEAD)
        return formatdate(self._now() + (wrong.amount if wrong else 0.0), usegmt=True).encode()

    async def _faulty(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        request = f"{scope['method']} {scope['path']}"
        if scope["path"].startswith("/control/"):
            await self._app(scope, _replay(body, receive), send)
        elif self._faults.take(Fault.HTTP_TIMEOUT, request):
            await _gone(receive)
        elif rule := self._faults.take(Fault.HTTP_TRICKLE, request):
            await self._trickle(scope, _replay(body, receive), rule.amount)
        elif self._faults.take(Fault.HTTP_RESET, request):
            lose_reply(scope)
        elif self._faults.take(Fault.HTTP_500, request):
            await self._refuse(send, scope["path"], 500)
        elif self._faults.take(Fault.HTTP_502, request):
            await _answer(send, 502, {"content-type": "text/html"}, GATEWAY)
        elif self._faults.take(Fault.HTTP_410, request):
            await self._refuse(send, scope["path"], 410)
        elif rule := self._faults.take(Fault.HTTP_429, request):
            await self._refuse(send, scope["path"], 429, {"retry-after": f"{rule.amount:g}"})
        elif self._faults.take(Fault.GARBAGE_REPLY, request):
            await self._app(scope, _replay(body, receive), _swallow)
            await _answer(send, 200, {"content-type": "text/html"}, GARBAGE)
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _trickle(self, scope: Scope, receive: Receive, every_s: float) -> None:
        """Write the answer past uvicorn, byte by byte, until all of it is out or the client has gone."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, keep)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        lines = [b"%s: %s" % (name, value) for name, value in sent[0]["headers"]]
        answer = b"\r\n".join([b"HTTP/1.1 %d Slowly" % sent[0]["status"], *lines, b"", body])
        transport = CuttableProtocol.open_transports.get(tuple(scope["client"]))
        for place in range(len(answer)):
            if transport is None or transport.is_closing():
                break
            transport.write(answer[place : place + 1])
            await asyncio.sleep(every_s)
        lose_reply(scope)  # uvicorn knows of no answer, and would send one of its own

    async def _refuse(self, send: Send, path: str, status: int, headers: Mapping[str, str] | None = None) -> None:
        kind, body = self._dress(path, status) or ("application/json", _PLAIN[status])
        await _answer(send, status, {"content-type": kind, **(headers or {})}, body)


async def _read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _swallow(message: Message) -> None:
    """Drop an answer."""


async def _answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    given = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    encoded = [(name.encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
