"""The sandbox's own API behind the real adapter, without sockets: requests are driven through the ASGI application."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from tests.simulation.strangers import JSON, Answer, Sight, Strangers

from gpurent_sandbox.api import Context, Keys, build_api
from gpurent_sandbox.faults import FaultKind, Faults, Rule
from gpurent_sandbox.held import Held, Refusal
from gpurent_sandbox.journal import Journal
from gpurent_sandbox.market import Market
from gpurent_sandbox.wire import CUT, Wire

if TYPE_CHECKING:
    from tests.simulation.world import World

SEES_ALL = Sight(())
"""Of a machine's switch: it has no business with any number but its own."""
LATENCY_S = 0.2
UNSEEN_S = 30.0
"""What a client takes from its last listing to the line that says gone."""
ACCOUNT, OTHER_ACCOUNT = "sbx_account_of_the_simulation", "sbx_account_of_somebody_else"
URL = "http://market.invalid"
SILENCE, TRICKLE, CUT_OFF = -1, -2, 0
"""Answers that are none: nothing comes, it comes byte by byte, the connection is cut."""


class CountingFaults(Faults):
    """Faults that remember how often each struck."""

    struck: Counter[str]

    def take(self, fault: FaultKind, request: str = "") -> Rule | None:
        if fault not in self._rules:
            return None
        rule = super().take(fault, request)
        if rule is not None:
            self.struck[fault.value] += 1
        return rule


class _NoJournal(Journal):
    """Requests are not kept: there are millions."""

    def arrived(self, at: float, method: str, path: str, query: str, *, headers: Mapping[str, str], body: bytes) -> int:
        return 0

    def answered(self, number: int, status: int, violations: Sequence[str] = ()) -> None: ...


class Direct:
    """The same handlers, found and asked without the layers of Starlette: half of what a request costs there."""

    def __init__(self, app: Starlette) -> None:
        routes = [route for route in app.routes if isinstance(route, Route)]
        self._routes = [(route.methods or set(), route.path_regex, route.endpoint) for route in routes]
        self._handlers: Mapping[Any, Any] = app.exception_handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint, scope["path_params"] = self._found(scope["method"], scope["path"])
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except (Refusal, ValidationError) as error:
            response = await self._handlers[type(error)](request, error)
        await response(scope, receive, send)

    def _found(self, method: str, path: str) -> tuple[Any, dict[str, str]]:
        for methods, pattern, endpoint in self._routes:
            if method in methods and (found := pattern.match(path)):
                return endpoint, found.groupdict()
        raise LookupError(f"nobody answers {method} {path}")


class Service:
    """The market's front door, its outages included."""

    def __init__(self, world: World, market: Market, faults: Faults) -> None:
        self._market = market
        self._clock = world.clock
        self._struck = world.tally.faults
        self._late = world.schedule.late_create
        self._late_label = ""
        self._world = world
        self.owes_create = False
        """Whether it has yet to carry out what it answered with an error."""
        self.down = self.trickling = self.revoked = False
        self.strangers = Strangers(world.schedule, world.clock, market, world.lies, self._struck)
        context = Context(
            market, faults, Keys(account=ACCOUNT, control="-", other=OTHER_ACCOUNT), self._killed, lambda _ref: ""
        )
        api = build_api(context)
        self._app = Wire(
            api if world.with_httpx else Direct(api),
            faults=faults,
            journal=_NoJournal(Path(), lambda: ()),
            now=self._clock.now,
        )

    async def _killed(self, ref: str) -> None:
        """Hosts of this world die with their instance."""

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: str = "",
        sight: Sight = SEES_ALL,
    ) -> Answer:  # fmt: skip
        """One request and its answer; statuses below 100 are no answer at all. ``sight``: of the asking account."""
        self._clock.sleep(LATENCY_S)
        if self.down:
            self._struck["provider's API down"] += 1
            return SILENCE, (), b""
        key = headers.get("Authorization", "").removeprefix("Bearer ")
        if key == OTHER_ACCOUNT:
            self._struck["another account's key"] += 1
            return self._drive(method, path, headers, body, query)
        if key == ACCOUNT and self.revoked:
            self._struck["account's key refused"] += 1
            return _json(401, {"error": {"code": "unauthorized", "message": "this key was revoked"}})
        if method == "POST" and self._late is not None:
            return self._later(method, path, headers, body)
        return self._handled(method, path, headers, body, query, sight)

    def _later(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The first create fails, as far as anybody can see."""
        assert self._late is not None
        late, self._late = self._late, None
        self._struck["create carried out later"] += 1

        def carry_out() -> None:
            self.owes_create, self._late_label = False, str(json.loads(body).get("label"))
            if not self._world.over:
                self._drive(method, path, headers, body, "")
                self._world.network.notice()

        self.owes_create = True
        self._clock.at(self._clock.now() + late, carry_out)
        return _json(500, {"error": {"code": "internal", "message": "something broke"}})

    def foreseeable(self, held: Held) -> bool:
        """Whether a listing could have shown it, or its creation been expected: not that of a late one just now."""
        return held.order.label != self._late_label or self._clock.now() > held.troubles.listed_from + UNSEEN_S

    def _handled(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: str, sight: Sight
    ) -> Answer:  # fmt: skip
        taken = self.strangers.took(method, path, sight)
        answer = self._drive(method, path, headers, body, query) if taken is None else taken
        if method == "GET" and path == "/v1/instances" and answer[0] == 200:
            answer = self.strangers.among(answer)
        if self.trickling and answer[0] > 0:
            self._struck["an answer trickles"] += 1
            return TRICKLE, (), b""
        return answer

    def _drive(self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: str) -> Answer:
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

        self._forget()
        _run(self._app(scope, receive, send))
        self._forget()
        if not sent:
            return (CUT_OFF if scope[CUT] else SILENCE), (), b""
        return int(sent[0]["status"]), sent[0]["headers"], b"".join(message.get("body", b"") for message in sent[1:])

    def _forget(self) -> None:
        """What has ended is off the listings at once: hosts of this world die with their instance."""
        for ref in self._market.ended():
            self._market.forget(ref)


def _run(task: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never really waits."""
    try:
        task.send(None)
    except StopIteration:
        return
    raise RuntimeError("a handler of the sandbox waits for something that virtual time does not bring")


def _json(status: int, value: object) -> Answer:
    return status, JSON, json.dumps(value).encode()
