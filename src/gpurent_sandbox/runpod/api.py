"""RunPod's REST API v2 over the sandbox's market; GraphQL has a module of its own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpurent_sandbox.alike import answering
from gpurent_sandbox.api import Context, bearer
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import MAIN_ACCOUNT, Held, Refusal
from gpurent_sandbox.journal import OWN_REPLY
from gpurent_sandbox.runpod import billing, catalogue, document, pods
from gpurent_sandbox.runpod.catalogue import Wanted
from gpurent_sandbox.runpod.graphql import GraphQL
from gpurent_sandbox.runpod.placing import Placing
from gpurent_sandbox.runpod.problems import NO_INSTANCES, Problem, RateLimits, respond
from gpurent_sandbox.runpod.shelf import KINDS, Kind, Shelf, new_id
from gpurent_sandbox.wire import note_violation

PREFIXES = ("/v2/", "/graphql")
PAGE = 10
NO_GPU = "gpu.count: 0 is less than the minimum"
"""A pod without its GPU: the document knows of none, and the service was seen to make them."""
SPOILED = "gpurent.spoiled"
BLOCKED_AGENT = "Python-urllib"
MAX_BODY = 102_400
"""Bytes of a request's body; what is larger makes nothing."""
FILTERS = ("product", "count", "cloud", "countryCodes", "cudaVersions", "minCudaVersion")


def build(context: Context) -> ASGIApp:
    """The ASGI application for ``PREFIXES``."""
    placing = Placing(context)
    api = _Api(context, placing)
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
        Route("/v2/account/ssh-keys", api.ssh_keys, methods=["GET", "PUT"]),
        *(Route(f"/v2/{kind}", api.belongings, methods=["GET"]) for kind in KINDS),
        *(Route(f"/v2/{kind}", api.make, methods=["POST"]) for kind in KINDS),
        *(Route(f"/v2/{kind}/{{id}}", api.belonging, methods=["GET"]) for kind in KINDS),
        *(Route(f"/v2/{kind}/{{id}}", api.drop, methods=["DELETE"]) for kind in KINDS),
        Route("/graphql", GraphQL(context, placing), methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        Problem: answering(respond),
        Refusal: answering(_refused),
        404: _unknown_path,
        405: _unknown_method,
    }
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
                for kept in held:
                    await send(kept)

        if over is None:
            await self._app(scope, receive, with_headers)
        else:
            wait = {"Retry-After": str(self._limits.retry_after(over, now))}
            problem = Problem(429, f"rate limit exceeded for the {over} window", **wait)
            await respond(problem)(scope, receive, with_headers)


def _judge_reply(scope: Scope, sent: Sequence[Message]) -> None:
    """What the look-alike itself answers is held to the document as well; faults that spoil a reply say so."""
    start, body = sent[0], b"".join(message["body"] for message in sent[1:])
    template = document.template_of(scope["path"])
    if template is None or not body or scope.get(SPOILED):
        return
    for text in document.judge_reply(template, scope["method"], start["status"], json.loads(body)):
        if NO_GPU not in text:
            note_violation(scope, f"{OWN_REPLY}: {text}")


class _Api:
    def __init__(self, context: Context, placing: Placing) -> None:
        self._market = context.market
        self._faults = context.faults
        self._keys = context.keys
        self._placing = placing

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
            {"dataCenters": [center for center in shown if regions is None or center["region"] in regions.split(",")]}
        )

    # Pods

    async def create(self, request: Request) -> Response:
        """Rent a machine."""
        await self._judged(request)
        held = self._placing.place(json.loads(await request.body()), self._account(request), request.scope)
        return JSONResponse(pods.pod_json(held, self._market.now()), 201)

    async def pods(self, request: Request) -> Response:
        """All pods, by pages; the cursor is the last id shown, so that it outlives the pod it came from."""
        query = await self._judged(request)
        now = self._market.now()
        size = 1 if self._faults.take(Fault.SHORT_PAGES) else int(query.get("limit", PAGE))
        after = query.get("cursor", "")
        own = self._market.instances(pods.API, self._account(request))
        left = sorted((instance for instance in own if pods.pod_id(instance) > after), key=pods.pod_id)
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
        return self._shown(self._placing.find(*self._asked_for(request)))

    async def delete(self, request: Request) -> Response:
        """Terminate a pod."""
        await self._judged(request, own_key=True)
        await self._placing.terminate(*self._asked_for(request))
        return Response(status_code=204)

    async def act(self, request: Request) -> Response:
        """Start, stop, restart or terminate a pod."""
        await self._judged(request, own_key=True)
        action = json.loads(await request.body())["action"]
        if action == "terminate":
            await self._placing.terminate(*self._asked_for(request))
            return Response(status_code=204)
        act = {"start": self._placing.start, "stop": self._placing.stop, "restart": self._placing.restart}[action]
        return self._shown(act(*self._asked_for(request)))

    def _asked_for(self, request: Request) -> tuple[str, str | None]:
        """The pod, and the account that asks; None is the pod itself."""
        return request.path_params["id"], self._keys.opens(bearer(request))

    def _shown(self, held: Held) -> Response:
        return JSONResponse(pods.pod_json(held, self._market.now()))

    # What an account keeps

    async def belongings(self, request: Request) -> Response:
        """All templates, network volumes or registries."""
        await self._judged(request)
        kind, shelf = self._kind(request)
        return JSONResponse({kind.listed_as: list(kind.rows(shelf).values())})

    async def make(self, request: Request) -> Response:
        """A new one of them."""
        await self._judged(request)
        kind, shelf = self._kind(request)
        made = {"id": new_id(), **kind.made(json.loads(await request.body()))}
        known = {catalogue.data_center(machine) for machine in self._market.machines()}
        if made.get("dataCenter", next(iter(known))) not in known:
            raise Problem(400, f"there is no data center {made['dataCenter']}")
        kind.rows(shelf)[made["id"]] = made
        return JSONResponse(made, 201)

    async def belonging(self, request: Request) -> Response:
        """One of them."""
        await self._judged(request)
        kind, shelf = self._kind(request)
        found = kind.rows(shelf).get(request.path_params["id"])
        if found is None:
            raise Problem(404, f"{kind.name} not found")
        return JSONResponse(found)

    async def drop(self, request: Request) -> Response:
        """Delete one of them, unless a pod needs it."""
        await self._judged(request)
        kind, shelf = self._kind(request)
        key = request.path_params["id"]
        if key not in kind.rows(shelf):
            raise Problem(404, f"{kind.name} not found")
        mine = self._market.instances(pods.API, self._account(request))
        if any(instance.order.shown.get(kind.name) == key for instance in mine):
            raise Problem(400, f"{kind.name} is in use by a pod")
        del kind.rows(shelf)[key]
        for template in shelf.templates.values():
            template["registry"] = None if template["registry"] == key else template["registry"]
        return Response(status_code=204)

    def _kind(self, request: Request) -> tuple[Kind, Shelf]:
        return KINDS[request.url.path.split("/")[2]], self._placing.shelves[self._account(request)]

    # Account

    async def bills(self, request: Request) -> Response:
        """What pods cost, also after their end."""
        query = await self._judged(request)
        late = self._faults.take(Fault.CHARGES_LATE)
        now = self._market.now() - (late.amount if late else 0.0)
        held = self._market.history(pods.API, self._account(request))
        return JSONResponse(billing.billing_json(held, billing.span(query, now), query.get("podId"), now))

    async def ssh_keys(self, request: Request) -> Response:
        """The keys that the account has registered, for pods that are made with ``startSsh``."""
        await self._judged(request)
        shelf = self._placing.shelves[self._account(request)]
        if request.method == "PUT":
            shelf.ssh_keys = json.loads(await request.body())["keys"]
        return JSONResponse({"keys": shelf.ssh_keys})

    def _account(self, request: Request) -> str:
        return self._keys.opens(bearer(request)) or MAIN_ACCOUNT

    # Admission

    async def _judged(self, request: Request, *, own_key: bool = False) -> Mapping[str, str]:
        """Check key and request; the query as the document allows it. ``own_key``: the pod's own key will do."""
        self._allow(request, request.path_params["id"] if own_key else None)
        if len(await request.body()) > MAX_BODY:
            note_violation(request.scope, f"a body of more than {MAX_BODY} bytes")
            raise Problem(413, f"request body exceeds {MAX_BODY} bytes")
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


def _refused(error: Refusal) -> Response:
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
