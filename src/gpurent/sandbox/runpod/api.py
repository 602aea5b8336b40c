"""RunPod's REST API v2 and the one GraphQL query that it cannot replace, over the sandbox's market."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpurent.sandbox.api import Context, bearer
from gpurent.sandbox.faults import Fault
from gpurent.sandbox.held import MAIN_ACCOUNT, OTHER_ACCOUNT, Held, Refusal
from gpurent.sandbox.journal import OWN_REPLY
from gpurent.sandbox.runpod import billing, catalogue, document, pods
from gpurent.sandbox.runpod.catalogue import Wanted
from gpurent.sandbox.runpod.problems import NO_INSTANCES, Problem, RateLimits, respond
from gpurent.sandbox.wire import lose_reply, note_violation

PREFIXES = ("/v2/", "/graphql")
PAGE = 10
NO_GPU = "gpu.count: 0 is less than the minimum"
"""A pod without its GPU: the document knows of none, and the service was seen to make them."""
SPOILED = "gpurent.spoiled"
BLOCKED_AGENT = "Python-urllib"
NOT_STARTED = "There are not enough free GPUs on the host machine to start this pod."
FILTERS = ("product", "count", "cloud", "countryCodes", "cudaVersions", "minCudaVersion")
USERS = {MAIN_ACCOUNT: "user_sandbox", OTHER_ACCOUNT: "user_other"}
ACCOUNT = {"email": "sandbox@localhost", "spendLimit": 80}


def build(context: Context) -> ASGIApp:
    """The ASGI application for ``PREFIXES``."""
    api = _Api(context)
    routes = [
        Route("/v2/catalog/gpus", api.gpus, methods=["GET"]),
        Route("/v2/catalog/gpus/{id}", api.gpu, methods=["GET"]),
        Route("/v2/catalog/datacenters", api.data_centers, methods=["GET"]),
        Route("/v2/pods", api.create, methods=["POST"]),
        Route("/v2/pods", api.pods, methods=["GET"]),
        Route("/v2/pods/{id}", api.pod, methods=["GET"]),
        Route("/v2/pods/{id}", api.delete, methods=["DELETE"]),
        Route("/v2/pods/{id}/action", api.act, methods=["POST"]),
        Route("/v2/billing/pods", api.bills, methods=["GET"]),
        Route("/v2/account/ssh-keys", api.ssh_keys, methods=["GET"]),
        Route("/graphql", api.graphql, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {Problem: _problem, Refusal: _refused, 404: _unknown_path, 405: _unknown_method}
    return _FrontDoor(Starlette(routes=routes, exception_handlers=handlers), context)


class _FrontDoor:
    """What comes before every request, whatever it asks: Cloudflare's taste in clients, and the rate limit."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._now = context.market.now
        self._limits = RateLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        agent = Request(scope).headers.get("user-agent", "")
        if agent.startswith(BLOCKED_AGENT):
            note_violation(scope, f"user agent {agent!r} is blocked")
            await PlainTextResponse("error code: 1010", 403)(scope, receive, send)
            return
        now = self._now()
        over = self._limits.count(now)
        named = {"x-request-id": secrets.token_hex(8), **self._limits.headers(now)}
        extra = [(name.lower().encode(), value.encode()) for name, value in named.items()]
        held: list[Message] = []

        async def with_headers(message: Message) -> None:
            held.append(message)
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            elif not message.get("more_body", False):
                _judge_reply(scope, held)
                for one in held:
                    await send(one)

        if over is None:
            await self._app(scope, receive, with_headers)
        else:
            wait = {"Retry-After": str(self._limits.retry_after(over, now))}
            problem = Problem(429, f"rate limit exceeded for the {over} window", **wait)
            await respond(problem)(scope, receive, with_headers)


def _judge_reply(scope: Scope, sent: Sequence[Message]) -> None:
    """What the look-alike itself answers is held to the document as well; faults that spoil a reply say so."""
    start, body = sent[0], b"".join(one["body"] for one in sent[1:])
    template = document.template_of(scope["path"])
    if template is None or not body or scope.get(SPOILED):
        return
    for text in document.judge_reply(template, scope["method"], start["status"], json.loads(body)):
        if NO_GPU not in text:
            note_violation(scope, f"{OWN_REPLY}: {text}")


class _Api:
    def __init__(self, context: Context) -> None:
        self._market = context.market
        self._faults = context.faults
        self._keys = context.keys
        self._kill_host = context.kill_host

    # Catalogue

    async def gpus(self, request: Request) -> Response:
        """GPU types, with stock if wanted."""
        query = await self._judged(request)
        shown = catalogue.gpu_types(self._market.machines(), self._market.offers(), _availability(query))
        if self._faults.take(Fault.ODD_OFFERS):
            request.scope[SPOILED] = True
            shown = [_odd(number, row) for number, row in enumerate(shown)]
        return JSONResponse({"gpus": shown})

    async def gpu(self, request: Request) -> Response:
        """One GPU type."""
        query = await self._judged(request)
        shown = catalogue.gpu_types(self._market.machines(), self._market.offers(), _availability(query))
        found = [row for row in shown if row["id"] == request.path_params["id"]]
        if not found:
            raise Problem(404, "gpu type not found")
        return JSONResponse(found[0])

    async def data_centers(self, request: Request) -> Response:
        """Data centres, with their stock if wanted."""
        query = await self._judged(request)
        gpus = "GPU_AVAILABILITY" in query.get("include", "").split(",")
        shown = catalogue.data_centers(self._market.machines(), self._market.offers(), gpus=gpus)
        regions = query.get("regions")
        return JSONResponse(
            {"dataCenters": [one for one in shown if regions is None or one["region"] in regions.split(",")]}
        )

    # Pods

    async def create(self, request: Request) -> Response:
        """Rent a machine."""
        await self._judged(request)
        account = self._account(request)
        body: dict[str, Any] = json.loads(await request.body())
        if (broken := pods.check_rules(body)) is not None:
            note_violation(request.scope, broken)
            raise Problem(400, broken)
        if (rule := self._faults.take(Fault.CREATE_REFUSED)) is not None:
            raise pods.refusal(int(rule.amount))
        if self._faults.take(Fault.BAD_IMAGE):
            raise Problem(422, f"image {body['image']} was not found in the registry")
        machine = pods.choose(self._market.offers(), body)
        if self._faults.take(Fault.NO_CAPACITY, pods.place(machine)):
            raise Problem(400, NO_INSTANCES)
        price = catalogue.pod_price(self._market.machines(), machine)
        order = replace(pods.order(body, machine, price), account=account)
        if self._market.balance(account) < price.hourly(order.disk_gb):
            raise Problem(402, "insufficient balance: a pod needs credit for an hour")
        held = self._market.create(order)
        self._market.inject(held.id, pods.injected(held))
        if self._faults.take(Fault.CREATE_REPLY_LOST):
            lose_reply(request.scope)
        if self._faults.take(Fault.CREATE_ERROR_BUT_CREATED):
            raise Problem(500, f"pod {pods.pod_id(held)} was created but its start could not be confirmed")
        return JSONResponse(pods.pod_json(held, self._market.now()), 201)

    async def pods(self, request: Request) -> Response:
        """All pods, by pages; the cursor is the last id shown, so that it outlives the pod it came from."""
        query = await self._judged(request)
        now = self._market.now()
        size = 1 if self._faults.take(Fault.SHORT_PAGES) else int(query.get("limit", PAGE))
        after = query.get("cursor", "")
        own = self._market.instances(pods.API, self._account(request))
        left = sorted((one for one in own if pods.pod_id(one) > after), key=pods.pod_id)
        more = len(left) > size
        return JSONResponse(
            {
                "pods": [pods.pod_json(held, now) for held in left[:size]],
                "pagination": {"nextCursor": pods.pod_id(left[size - 1]) if more else None, "hasNextPage": more},
            }
        )

    async def pod(self, request: Request) -> Response:
        """One pod."""
        await self._judged(request, own_key=True)
        return JSONResponse(pods.pod_json(self._find(request), self._market.now()))

    async def delete(self, request: Request) -> Response:
        """Terminate a pod."""
        await self._judged(request, own_key=True)
        return await self._terminate(request)

    async def act(self, request: Request) -> Response:
        """Start, stop, restart or terminate a pod."""
        await self._judged(request, own_key=True)
        action = json.loads(await request.body())["action"]
        if action == "terminate":
            return await self._terminate(request)
        held = self._find(request)
        word = pods.status(held, self._market.now())
        if action not in pods.ACTIONS[word]:
            raise Problem(409, f"cannot {action} a pod that is {word}")
        if action == "start":
            raise Problem(400, NOT_STARTED)
        if action == "stop":
            self._market.stop(held.id)
        return JSONResponse(pods.pod_json(self._find(request), self._market.now()))

    def _find(self, request: Request) -> Held:
        held = self._market.get(pods.ref_of(request.path_params["id"]), self._keys.opens(bearer(request)))
        if held.order.api != pods.API:
            raise Problem(404, "pod not found")
        return held

    async def _terminate(self, request: Request) -> Response:
        ref = pods.ref_of(request.path_params["id"])
        if self._market.end(ref, self._keys.opens(bearer(request))):
            await self._kill_host(ref)
            self._market.forget(ref)
        return Response(status_code=204)

    # Account

    async def bills(self, request: Request) -> Response:
        """What pods cost, also after their end."""
        query = await self._judged(request)
        late = self._faults.take(Fault.CHARGES_LATE)
        now = self._market.now() - (late.amount if late else 0.0)
        held = self._market.history(pods.API, self._account(request))
        return JSONResponse(billing.billing_json(held, billing.span(query, now), query.get("podId"), now))

    async def ssh_keys(self, request: Request) -> Response:
        """The account has registered none."""
        await self._judged(request)
        return JSONResponse({"keys": []})

    async def graphql(self, request: Request) -> Response:
        """``query { myself { … } }``, flat; nothing else is left of GraphQL here."""
        account = self._keys.opens(bearer(request))
        if account is None:
            return JSONResponse({"errors": [{"message": "Unauthorized"}]}, 401)
        values = {
            **ACCOUNT,
            "id": USERS[account],
            "clientBalance": float(self._market.balance(account).decimal()),
            "currentSpendPerHr": self._rate(account),
        }
        try:
            query = json.loads(await request.body())["query"]
            fields = re.fullmatch(r"\s*query\s*\w*\s*{\s*myself\s*{([\w\s]*)}\s*}\s*", query)
            wanted = fields[1].split() if fields else [""]
        except (ValueError, KeyError, TypeError):
            wanted = [""]
        unknown = [name for name in wanted if name not in values]
        if unknown:
            note_violation(request.scope, f"GraphQL: no field {unknown[0]!r}")
            return JSONResponse({"errors": [{"message": f"Cannot query field {unknown[0]!r}"}]}, 400)
        return JSONResponse({"data": {"myself": {name: values[name] for name in wanted}}})

    def _account(self, request: Request) -> str:
        return self._keys.opens(bearer(request)) or MAIN_ACCOUNT

    def _rate(self, account: str) -> float:
        return sum(
            float(held.price.hourly(held.order.disk_gb).decimal())
            for held in self._market.instances(pods.API, account) if held.active
        )  # fmt: skip

    # Admission

    async def _judged(self, request: Request, *, own_key: bool = False) -> Mapping[str, str]:
        """Check key and request; the query as the document allows it. ``own_key``: the pod's own key will do."""
        self._allow(request, request.path_params["id"] if own_key else None)
        template = document.template_of(request.url.path)
        assert template is not None, request.url.path
        found = document.judge(template, request.method, request.query_params.multi_items(), await request.body())
        for text in found.violations:
            note_violation(request.scope, text)
        if found.errors:
            raise Problem(422, "Request validation failed.", found.errors)
        query = request.query_params
        if template.startswith("/v2/catalog/gpus") and (broken := _catalogue_rule(query)) is not None:
            note_violation(request.scope, broken)
            raise Problem(400, broken)
        return query

    def _allow(self, request: Request, pod: str | None) -> None:
        key = bearer(request)
        if not key:
            raise Problem(401, "missing bearer token")
        if self._keys.opens(key) is not None:
            return
        owner = self._market.owner_of(key)
        if owner is None:
            raise Problem(401, "invalid bearer token")
        if pod is None or owner != pods.ref_of(pod):
            raise Problem(403, "this key has no access to this resource")


def _catalogue_rule(query: Mapping[str, str]) -> str | None:
    """The first rule across parameters that is broken; the document cannot say these."""
    if query.get("include") and "product" not in query:
        return "include=AVAILABILITY needs product"
    if not query.get("include") and any(name in query for name in FILTERS):
        return f"{', '.join(FILTERS)} need include=AVAILABILITY"
    if "cudaVersions" in query and "minCudaVersion" in query:
        return "cudaVersions and minCudaVersion are mutually exclusive"
    return None


def _availability(query: Mapping[str, str]) -> Wanted | None:
    if not query.get("include"):
        return None
    return Wanted(
        count=int(query.get("count", 1)),
        cloud=query.get("cloud", "SECURE"),
        countries=tuple(filter(None, query.get("countryCodes", "").split(","))),
        cuda_at_least=query.get("minCudaVersion", ""),
        cuda_exactly=tuple(filter(None, query.get("cudaVersions", "").split(","))),
    )


def _odd(number: int, row: dict[str, object]) -> dict[str, object]:
    """Even rows become unusable, each in its own way; odd ones only strange."""
    broken: list[dict[str, object]] = [{"id": "unknown"}, {"memory": None}, {"price": {"secure": "NaN"}}, {"id": 7}]
    strange: dict[str, object] = {"pool": None, "cudaVersions": None, "constellation": {"name": ["Lyra"]}}
    return row | strange | (broken[number // 2 % len(broken)] if number % 2 == 0 else {})


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return respond(error)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    match error.code:
        case "not_found":
            return respond(Problem(404, "pod not found"))
        case "offer_gone":
            return respond(Problem(400, NO_INSTANCES))
        case "no_credit":
            return respond(Problem(402, "insufficient balance"))
        case _:
            return respond(Problem(400, str(error)))


async def _unknown_path(request: Request, _: Exception) -> Response:
    note_violation(request.scope, f"no path {request.url.path}")
    return respond(Problem(404, "not found"))


async def _unknown_method(request: Request, _: Exception) -> Response:
    note_violation(request.scope, f"no method {request.method}")
    template = document.template_of(request.url.path)
    allowed = ", ".join(document.methods(template)) if template else "POST"
    return respond(Problem(405, "method not allowed", Allow=allowed))
